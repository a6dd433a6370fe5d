"""Small engines: which engines are small, what they are asked for, and the short prompts that they get."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any

import pytest

from llm_server.engines.discovery import discover
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.engines.catalog import END_MARKS, Catalog, EngineSpec
from llm_server.orchestration.domain.engines.usage import estimate_tokens
from llm_server.orchestration.domain.errors import ConfigurationError

PACKAGED = tomllib.loads(files("llm_server").joinpath("data/catalog.toml").read_text(encoding="utf-8"))
CHAT = {"kind": "openai", "source": "local", "model": "m", "base_url": "http://127.0.0.1:1"}
MESSAGES = {**CHAT, "kind": "anthropic"}
GGUF = {"kind": "llamacpp", "source": "local", "model": "m.gguf"}
MAX_SHORT_TOKENS = 30


def load(overlay: dict[str, Any] | None = None) -> Catalog:
    return catalog_file.load(PACKAGED, overlay, source="over.toml")


def an_engine(described: dict[str, Any]) -> EngineSpec:
    return load({"engines": {"mine": described}}).engines["mine"]


@pytest.mark.parametrize(
    ("described", "is_small"),
    [
        (GGUF, True),
        ({**GGUF, "small": False}, False),
        (CHAT, False),
        ({**CHAT, "small": True}, True),
        ({**MESSAGES, "small": True}, True),
        ({"kind": "embedded", "source": "local"}, False),
    ],
)
def test_a_model_in_the_process_is_small_and_others_are_if_marked(described: dict[str, Any], is_small: bool) -> None:
    """A laptop with a good GPU may run a large model in the process: `small = false`."""
    assert an_engine(described).is_small is is_small


def test_the_model_that_is_found_without_configuration_is_small() -> None:
    assert discover({}, loopback=(), model="m.gguf").spec.is_small


@pytest.mark.parametrize(
    ("described", "stop", "penalty"),
    [
        (CHAT, (), None),
        (GGUF, END_MARKS, 1.1),
        ({**GGUF, "small": False}, (), None),
        ({**GGUF, "stop": [], "repeat_penalty": 1}, (), None),
        ({**GGUF, "stop": ["<|return|>"], "repeat_penalty": 1.05}, ("<|return|>",), 1.05),
        ({**CHAT, "stop": ["END"], "repeat_penalty": 1.2}, ("END",), 1.2),
    ],
)
def test_small_engines_have_defaults_that_can_be_replaced(
    described: dict[str, Any], stop: tuple[str, ...], penalty: float | None
) -> None:
    spec = an_engine(described)

    assert (spec.stop_texts, spec.repetition_penalty) == (stop, penalty)


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"engines": {"mine": {**MESSAGES, "repeat_penalty": 1.1}}}, "engines.mine.repeat_penalty is for the kinds"),
        ({"engines": {"m": {**MESSAGES, "structured_output": "json_object"}}}, 'engines.m.structured_output "json_obj'),
        ({"engines": {"m": {**CHAT, "structured_output": "json"}}}, "allowed are json_object, json_schema, none"),
        ({"engines": {"mine": {**CHAT, "repeat_penalty": 0.9}}}, "engines.mine: "),
        ({"engines": {"mine": {**CHAT, "stop": [""]}}}, "engines.mine: "),
        ({"engines": {"mine": {**CHAT, "small": "yes"}}}, "engines.mine: "),
        ({"engines": {"mine": {"kind": "embedded", "source": "local", "small": True}}}, "engines.mine.small is for"),
        ({"roles": {"Chat-Agent": {"short_prompt": " "}}}, "roles.Chat-Agent.short_prompt must be one line"),
        ({"roles": {"Chat-Agent": {"short_prompt": "a\nb"}}}, "roles.Chat-Agent.short_prompt must be one line"),
        ({"roles": {"Chat-Agent": {"short_prompt": "x" * 301}}}, "short_prompt must be one line of 1 to 300"),
        ({"defaults": {"small_max_output_tokens": 0}}, "$.defaults.small_max_output_tokens"),
        ({"defaults": {"plan_max_output_tokens": 0}}, "$.defaults.plan_max_output_tokens"),
        ({"defaults": {"verdict_max_output_tokens": -1}}, "$.defaults.verdict_max_output_tokens"),
    ],
)
def test_a_fault_of_these_fields_is_named(overlay: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(overlay)

    assert named in str(caught.value)


def test_the_packaged_limits_are_those_of_the_docs() -> None:
    defaults = load().defaults

    assert (defaults.plan_max_output_tokens, defaults.verdict_max_output_tokens) == (4096, 2048)
    assert defaults.small_max_output_tokens == 1024


@pytest.mark.parametrize("name", PACKAGED["roles"])
def test_a_packaged_role_has_a_short_prompt(name: str) -> None:
    """A small model on a CPU reads 200 tokens for 2.5 s before it writes the first one."""
    role = load().role(name)

    assert role.short_prompt is not None
    assert estimate_tokens(role.short_prompt) <= MAX_SHORT_TOKENS
    assert role.short_prompt.startswith("You ")
    assert any(role.short_prompt.endswith(end) for end in ("data.", "material."))


def test_each_short_prompt_is_of_its_own_role() -> None:
    shorts = [role.short_prompt for role in load().roles.values()]

    assert len(set(shorts)) == len(shorts)


def test_a_new_system_prompt_takes_the_packaged_short_one_away() -> None:
    """Small engines would get words that the user has replaced."""
    replaced = load({"roles": {"Chat-Agent": {"system_prompt": "You are a pirate."}}})

    assert replaced.role("Chat-Agent").short_prompt is None
    assert replaced.role("QA-Agent").short_prompt == load().role("QA-Agent").short_prompt


def test_a_short_prompt_of_ones_own_is_kept() -> None:
    own = {"system_prompt": "You are a pirate.", "short_prompt": "Pirate."}

    assert load({"roles": {"Chat-Agent": own}}).role("Chat-Agent").short_prompt == "Pirate."
    assert load({"roles": {"Chat-Agent": {"short_prompt": "Brief."}}}).role("Chat-Agent").short_prompt == "Brief."
    assert load({"roles": {"Chat-Agent": {"tier": "strong"}}}).role("Chat-Agent").short_prompt != "Brief."
