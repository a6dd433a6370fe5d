"""The catalogue: the packaged file is complete, an overlay is merged over it, and every fault names its entry."""

from __future__ import annotations

import copy
import re
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import ConfigurationError, UnknownName
from llm_server.orchestration.routing.analysis import FIELDS

# The roles of each profile.
ROLES_OF = {
    "Developer": {
        "Architect-Agent",
        "Planner-Agent",
        "Fast-Coder-Agent",
        "Deep-Coder-Agent",
        "QA-Agent",
        "Debug-Agent",
        "Research-Agent",
        "Vision-Agent",
    },
    "Productivity": {
        "Planner-Agent",
        "Writing-Agent",
        "Teacher-Agent",
        "Financial-Agent",
        "Email-Agent",
        "Document-Agent",
        "Spreadsheet-Agent",
    },
    "General": {"Chat-Agent", "Research-Agent", "Writing-Agent", "Teacher-Agent", "Personal-Trainer-Agent"},
}
MODEL = {"url": "https://models.example/m.gguf", "sha256": "ab" * 32, "size_bytes": 9, "licence": "MIT", "context": 9}
PACKAGED = tomllib.loads(files("llm_server").joinpath("data/catalog.toml").read_text(encoding="utf-8"))
ENGINE = {"kind": "openai", "source": "api", "model": "m", "base_url": "http://127.0.0.1:1"}
ROLE = {"profiles": ["General"], "purpose": "Reads contracts.", "system_prompt": "You are a lawyer."}


def load(overlay: dict[str, Any] | None = None) -> Catalog:
    return catalog_file.load(PACKAGED, overlay, source="over.toml")


def test_the_packaged_catalogue_has_the_promised_defaults() -> None:
    """These hold for users without a configuration file."""
    defaults = load().defaults

    assert (defaults.timeout_s, defaults.max_output_tokens, defaults.parallel_steps) == (120, 4096, 4)
    assert (defaults.confidence_threshold, defaults.synthesis_tier) == (0.7, "strong")
    assert (defaults.triage, defaults.triage_threshold) == ("auto", None)
    assert (defaults.profile, defaults.planner) == ("General", "Planner-Agent")


@pytest.mark.parametrize("profile", ROLES_OF)
def test_every_role_stands_in_its_profiles(profile: str) -> None:
    """The profiles have exactly the documented roles."""
    packaged = load()

    assert set(packaged.roles_of(profile)) == ROLES_OF[profile]
    assert set(packaged.profiles) == set(ROLES_OF)


def test_every_profile_falls_back_to_its_own_role() -> None:
    """This role answers if the analysis is not sure, and comes first in its profile."""
    packaged = load()

    assert {name: p.default_role for name, p in packaged.profiles.items()} == {
        "General": "Chat-Agent",
        "Developer": "Fast-Coder-Agent",
        "Productivity": "Writing-Agent",
    }
    assert all(packaged.roles_of(name)[0] == p.default_role for name, p in packaged.profiles.items())


def test_the_rules_and_the_catalogue_know_the_same_roles() -> None:
    """A task would fail if the rules chose a role that the catalogue does not have."""
    assert {role for members in FIELDS.values() for role in members} == set(load().roles)


@pytest.mark.parametrize("name", PACKAGED["roles"])
def test_a_system_prompt_is_whole_and_short(name: str) -> None:
    """It is paid for with every call. It says who answers, and that material is data."""
    role = load().role(name)

    assert 60 <= len(role.system_prompt.split()) <= 150
    assert role.system_prompt.startswith("You ")
    assert "\\" not in role.system_prompt
    assert "  " not in role.system_prompt
    assert any(word in role.system_prompt for word in ("data", "material"))
    assert role.purpose.endswith(".")


def test_each_role_has_its_own_system_prompt() -> None:
    """Each role has a prompt of its own."""
    prompts = [role.system_prompt for role in load().roles.values()]

    assert len(set(prompts)) == len(prompts)


def test_the_planner_is_told_the_shape_of_a_plan() -> None:
    """Engines without support for schemas know the shape from the prompt alone."""
    prompt = load().role("Planner-Agent").system_prompt

    assert all(f'"{field}"' in prompt for field in ("goal", "steps", "id", "role", "instruction", "depends_on"))
    assert "1 to 12" in prompt


def test_out_of_the_box_only_the_embedded_engine_is_configured() -> None:
    """No money can be spent before an engine is configured."""
    engines = load().engines

    assert {name: (e.kind, e.source, e.model) for name, e in engines.items()} == {
        "embedded": ("embedded", "local", "embedded")
    }


def test_an_overlay_changes_single_fields() -> None:
    """Fields that it does not name keep their packaged values."""
    changed = load({"defaults": {"timeout_s": 30}, "roles": {"QA-Agent": {"tier": "fast"}}})

    assert changed.defaults.timeout_s == 30
    assert changed.defaults.parallel_steps == 4
    assert changed.role("QA-Agent").tier == "fast"
    assert changed.role("QA-Agent").system_prompt == load().role("QA-Agent").system_prompt


def test_an_overlay_adds_a_profile_its_role_and_an_engine() -> None:
    """This needs no code."""
    law = {"purpose": "Contracts.", "default_role": "Legal-Agent"}
    overlay = {
        "profiles": {"Law": law},
        "roles": {"Legal-Agent": {**ROLE, "profiles": ["Law"]}},
        "engines": {"mine": {**ENGINE, "timeout_s": 7}},
    }

    added = load(overlay)

    assert added.roles_of("Law") == ["Legal-Agent"]
    assert added.profile_of("Legal-Agent") == "Law"
    assert (added.timeout_s("mine"), added.timeout_s("embedded")) == (7, 120)


def test_an_overlay_gives_roles_examples() -> None:
    """Also packaged roles; they are the prompts that a role is for."""
    legal = {**ROLE, "examples": ["Can my landlord keep the deposit?"] * 20}

    added = load({"roles": {"Legal-Agent": legal, "QA-Agent": {"examples": ["x" * 4_000]}}})

    assert len(added.role("Legal-Agent").examples) == 20
    assert added.role("QA-Agent").examples == ("x" * 4_000,)
    assert load().role("QA-Agent").examples == ()


@pytest.mark.parametrize(
    ("examples", "fault"),
    [
        (["x"] * 21, "roles.Legal-Agent.examples has 21 texts; at most 20 are allowed"),
        (["x", " \n"], "roles.Legal-Agent.examples[1] must be a text of 1 to 4,000 characters that is not blank"),
        (["x" * 4_001], "roles.Legal-Agent.examples[0] must be a text of 1 to 4,000 characters"),
        ("one text", "Expected `array`, got `str` - at `$.roles[...].examples`"),
        ([7], "roles.Legal-Agent: Expected `str`, got `int`"),
    ],
)
def test_wrong_examples_are_named(examples: object, fault: str) -> None:
    """With the role, the place in the list, and what is allowed."""
    with pytest.raises(ConfigurationError) as refused:
        load({"roles": {"Legal-Agent": {**ROLE, "examples": examples}}})

    assert fault in str(refused.value)
    assert "Legal-Agent" in str(refused.value)


def test_an_overlay_replaces_lists_whole() -> None:
    """Lists are not joined, so a role can be taken out of a profile."""
    assert "QA-Agent" not in load({"roles": {"QA-Agent": {"profiles": ["General"]}}}).roles_of("Developer")


def test_merging_leaves_both_files_as_they_were() -> None:
    """The packaged catalogue is loaded once and shared."""
    before, overlay = copy.deepcopy(PACKAGED), {"defaults": {"timeout_s": 30}}

    load(overlay)

    assert before == PACKAGED
    assert overlay == {"defaults": {"timeout_s": 30}}


def test_a_model_in_the_process_takes_one_call_at_a_time_unless_told_otherwise() -> None:
    """The threads of two calls would slow each other."""
    gguf = {"kind": "llamacpp", "source": "local", "model": "m.gguf"}
    loaded = load({"engines": {"a": gguf, "b": {**gguf, "max_concurrency": 3}, "c": ENGINE}})

    assert [loaded.engines[name].max_concurrency for name in "abc"] == [1, 3, 64]


def test_the_packaged_models_are_pinned() -> None:
    """Each has one revision, size and checksum, and a licence that allows any use."""
    packaged = load()

    assert len(packaged.models) >= 2
    for model in packaged.models.values():
        assert re.fullmatch(r"https://\S+/resolve/[0-9a-f]{40}/\S+\.gguf", model.url)
        assert 90_000_000 < model.size_bytes < 4_000_000_000
        assert model.licence == "Apache-2.0"


def test_an_overlay_adds_a_model() -> None:
    """It can be pulled like a packaged model."""
    added = load({"models": {"mine": MODEL}})

    assert added.models["mine"].size_bytes == 9
    assert set(added.models) == {*load().models, "mine"}


def test_a_role_is_shown_under_the_default_profile_if_it_has_one() -> None:
    """Otherwise it is shown under its first profile."""
    packaged = load()

    assert packaged.profile_of("Writing-Agent") == "General"
    assert packaged.profile_of("Planner-Agent") == "Developer"


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        (
            {"roles": {"Legal-Agent": {**ROLE, "profiles": ["Law"]}}},
            "roles.Legal-Agent.profiles names the unknown profile 'Law'",
        ),
        ({"roles": {"Legal-Agent": {**ROLE, "profiles": []}}}, "roles.Legal-Agent.profiles is empty"),
        (
            {"profiles": {"General": {"default_role": "QA-Agent"}}},
            "profiles.General.default_role 'QA-Agent' is not a role of this profile",
        ),
        ({"defaults": {"profile": "Law"}}, "defaults.profile 'Law' is not a configured profile"),
        ({"defaults": {"planner": "Law-Agent"}}, "defaults.planner 'Law-Agent' is not a configured role"),
        ({"engines": {"mine": {**ENGINE, "model": ""}}}, "engines.mine.model is missing"),
        ({"engines": {"mine": {"kind": "bedrock", "source": "api"}}}, "engines.mine.model is missing"),
        (
            {"engines": {"mine": {"kind": "openai", "source": "api", "model": "m"}}},
            "engines.mine.base_url is missing",
        ),
        (
            {"engines": {"mine": {"kind": "anthropic", "source": "api", "model": "m"}}},
            "engines.mine.base_url is missing",
        ),
        (
            {"engines": {"mine": {**ENGINE, "base_url": "ftp://x"}}},
            "engines.mine.base_url must have http:// or https://, a host",
        ),
        (
            {"engines": {"mine": {**ENGINE, "base_url": "http://me:pass@x"}}},
            "engines.mine.base_url must not contain credentials",
        ),
        (
            {"engines": {"mine": {**ENGINE, "source": "local", "price": {"input": 1, "output": 1}}}},
            'engines.mine.price is for engines with source = "api"',
        ),
        (
            {"engines": {"embedded": {"kind": "embedded", "source": "api"}}},
            'engines.embedded.source must be "local" for an engine of the kind embedded',
        ),
        (
            {"engines": {"mine": {"kind": "bedrock", "source": "local", "model": "m"}}},
            'engines.mine.source must be "api" for an engine of the kind bedrock',
        ),
        ({"engines": {"mine": {**ENGINE, "base_url": "http:///v1"}}}, "engines.mine.base_url must have"),
        ({"engines": {"mine": {**ENGINE, "base_url": "http://x:99999"}}}, "engines.mine.base_url must have"),
        ({"engines": {"mine": {**ENGINE, "base_url": "http://a b/v1"}}}, "engines.mine.base_url must have"),
        (
            {"engines": {"ok": ENGINE, "mine": {**ENGINE, "kind": "opnai"}}},
            "engines.mine.kind is 'opnai'; allowed are anthropic, bedrock, demonstration, embedded, llamacpp, openai.",
        ),
        (
            {"engines": {"mine": {**ENGINE, "tier": "medium"}}},
            "engines.mine.tier is 'medium'; allowed are fast, strong.",
        ),
        ({"defaults": {"synthesis_tier": "medium"}}, "defaults.synthesis_tier is 'medium'; allowed are fast, strong."),
        (
            {"engines": {"mine": {**ENGINE, "price": {"in": 1, "output": 1}}}},
            "engines.mine.price.in is unknown; known are input, output, cached_input, cache_write, cache_write_1h.",
        ),
        (
            {"engines": {"mine": {**ENGINE, "price": {"input": 1, "output": 1, "cached_input": 1.5}}}},
            "engines.mine.price.cached_input must not be higher than price.input",
        ),
        (
            {"engines": {"mine": {**ENGINE, "price": {"input": 1, "output": 1, "cache_write": -1}}}},
            "engines.mine: Expected `float` >= 0.0 - at `$.engines[...].price.cache_write`",
        ),
        (
            {"engines": {"mine": {**ENGINE, "max_reasoning_tokens": -1}}},
            "engines.mine: Expected `int` >= 0 - at `$.engines[...].max_reasoning_tokens`",
        ),
        (
            {"profiles": {"General": {"role": "x"}}},
            "profiles.General.role is unknown; known are purpose, default_role,",
        ),
        ({"engine": {"mine": ENGINE}}, "engine is unknown; known are defaults, profiles, roles, engines, models."),
        (
            {"engines": {"mine": {**ENGINE, "api_key": "sk-secret"}}},
            "engines.mine.api_key must be env:NAME, ssm:NAME or secretsmanager:NAME; the key itself is kept there, not",
        ),
        ({"models": {"mine": {**MODEL, "sha256": "AB" * 32}}}, "models.mine.sha256 must be 64 hexadecimal digits"),
        (
            {"engines": {"mine": {**ENGINE, "base_url": "http://x/v1/chat/completions/"}}},
            "engines.mine.base_url must not end with /chat/completions, because the server adds it.",
        ),
        (
            {"engines": {"mine": {**ENGINE, "kind": "anthropic", "base_url": "http://x/v1/messages"}}},
            "engines.mine.base_url must not end with /v1/messages, because the server adds it.",
        ),
        ({"engines": {"mine": {**ENGINE, "price": {"input": float("inf"), "output": 1}}}}, "engines.mine: "),
        ({"roles": {"Legal-Agent": {"purpose": 1}}}, "roles.Legal-Agent: "),
        ({"models": {"../mine": MODEL}}, "models.../mine.name may have only letters, digits"),
        ({"models": {"mine": {**MODEL, "url": "file:///m.gguf"}}}, "models.mine.url must start with https://"),
        ({"engines": {"mine": {"kind": "llamacpp", "source": "local"}}}, "engines.mine.model is missing"),
    ],
)
def test_a_fault_is_named_by_its_entry(overlay: dict[str, Any], named: str) -> None:
    """The message names the file, the entry and the fault, so that users can repair it without reading code."""
    with pytest.raises(ConfigurationError) as caught:
        load(overlay)

    assert str(caught.value).startswith("The configuration over.toml is wrong: ")
    assert named in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"defaults": {"timeout_s": 0}}, "$.defaults.timeout_s"),
        ({"defaults": {"confidence_threshold": 1.1}}, "$.defaults.confidence_threshold"),
        ({"defaults": {"triage": "maybe"}}, "defaults.triage is 'maybe'; allowed are always, auto, off"),
        ({"defaults": {"triage": True}}, "defaults.triage is"),
        ({"defaults": {"triage_threshold": -0.1}}, "$.defaults.triage_threshold"),
        ({"engines": {"mine": {**ENGINE, "kind": "gpt"}}}, "engines.mine.kind"),
        ({"engines": {"mine": {**ENGINE, "api_key": "sk-secret"}}}, "engines.mine.api_key"),
        ({"engines": {"mine": {**ENGINE, "price": {"input": -1, "output": 0}}}}, "price.input"),
        ({"roles": {"Legal-Agent": {**ROLE, "temperature": 3}}}, "temperature"),
        ({"roles": {"Legal-Agent": {**ROLE, "promt": "x"}}}, "promt"),
        ({"models": {"mine": {**MODEL, "sha256": "AB" * 32}}}, "sha256"),
        ({"models": {"mine": {**MODEL, "size_bytes": 0}}}, "size_bytes"),
        ({"models": {"mine": {"url": "https://models.example/m.gguf"}}}, "sha256"),
        ({"engines": {"mine": "llamacpp"}}, "$.engines"),
        ({"engines": []}, "$.engines"),
    ],
)
def test_a_wrong_type_or_name_is_refused(overlay: dict[str, Any], named: str) -> None:
    """A misspelt setting is not ignored, and a key that was pasted instead of a reference is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        load(overlay)

    assert named in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/../b", "fast\n", "a\x00", "a\x85b"])
def test_an_engine_has_a_name_that_can_stand_in_a_path(name: str) -> None:
    """It is switched at /engines/NAME; clients and gateways change dots in paths and refuse control characters."""
    with pytest.raises(ConfigurationError, match="is not a valid engine name") as caught:
        load({"engines": {name: ENGINE}})

    assert str(caught.value).isprintable()
    assert "openai/gpt-5.mini" in load({"engines": {"openai/gpt-5.mini": ENGINE}}).engines


def test_a_key_in_place_of_its_reference_is_repeated_nowhere() -> None:
    """It is neither in the message nor in the traceback below it."""
    with pytest.raises(ConfigurationError) as caught:
        load({"engines": {"mine": {**ENGINE, "api_key": "sk-secret"}}})

    assert "sk-secret" not in f"{caught.value}{caught.value.__cause__}"


def test_an_unknown_name_lists_the_known_ones() -> None:
    """The caller can choose from the answer."""
    packaged = load()

    with pytest.raises(UnknownName, match="Unknown role 'Missing-Agent'; known are Architect-Agent, Chat-Agent"):
        packaged.role("Missing-Agent")
    with pytest.raises(UnknownName, match="Unknown profile 'Law'; known are Developer, General, Productivity"):
        packaged.profile("Law")


def test_the_developers_coders_are_judged_and_repaired_by_others() -> None:
    """The catalogue says who reviews, and which roles are reviewed."""
    catalogue = load()

    developer = catalogue.profiles["Developer"]
    assert (developer.judged_by, developer.repaired_by) == ("QA-Agent", "Debug-Agent")
    assert {name for name, role in catalogue.roles.items() if role.reviewed} == {"Fast-Coder-Agent", "Deep-Coder-Agent"}


@pytest.mark.parametrize(
    ("reviewers", "fault"),
    [
        (
            {"judged_by": "Missing-Agent", "repaired_by": "Debug-Agent"},
            "judged_by 'Missing-Agent' is not a configured role",
        ),
        ({"judged_by": "QA-Agent"}, "judged_by and repaired_by must be set together"),
    ],
)
def test_reviewers_are_roles_and_go_together(reviewers: dict[str, str], fault: str) -> None:
    """A review that could only find, or only repair, is a fault of the configuration."""
    with pytest.raises(ConfigurationError, match=fault):
        load({"profiles": {"General": reviewers}})
