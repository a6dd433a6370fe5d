"""`llm-server route`: a decision without a server, and an evaluation of labelled prompts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli.app import app
from llm_server.cli.route import family
from support.in_process_server import CalledServer, called_server

ROWS = (
    {"prompt": "Write a Python function", "ok_roles": ["Coder"], "ok_modes": ["Agent"]},
    {"prompt": "hello", "ok_roles": ["Chat-Agent"], "ok_modes": ["Chat"]},
    {"prompt": "hello", "ok_roles": ["Writing"], "ok_modes": ["Agent"]},
    {"prompt": "Add 2 and 3. What is it?", "weak": 1.0, "strong": 1.0},
    {"prompt": "Prove the theorem, rigorously, for all integers.", "weak": 0.0, "strong": 1.0},
    {"prompt": "Build it, test it, then deploy it and document it", "multi_step": True},
    {"prompt": "Say hello", "multi_step": False},
)


OVERLAY = """
[defaults]
confidence_threshold = 0.95

[profiles.Law]
purpose = "Contracts."
default_role = "Legal-Agent"

[roles.Legal-Agent]
profiles = ["Law"]
purpose = "Reads contracts."
system_prompt = "You are a lawyer."
"""
UNSURE = "Compare the two."
ENGINE = """
[engines.{}]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
{}
"""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["route", *arguments], env=environment)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalledServer]:
    with called_server(tmp_path_factory.mktemp("route"), OVERLAY) as server:
        yield server


def test_a_decision_is_shown_with_its_reasons() -> None:
    """No server is called; the lines are those of `submit --dry-run`."""
    shown = run("Write a Python function that reverses a string", "--text").stdout.splitlines()

    assert [line.split() for line in shown[:3]] == [
        ["mode", "Agent"],
        ["role", "Fast-Coder-Agent"],
        ["profile", "Developer"],
    ]
    assert any(line.startswith("reasons       about language (+") for line in shown)
    assert re.fullmatch(r"alternatives  \S+ 0\.\d\d", shown[-3])


def test_a_decision_in_a_pipe_is_json() -> None:
    """With the field names of the API."""
    document = json.loads(run("hello").stdout)

    assert (document["mode"], document["role"]) == ("Chat", "Chat-Agent")
    assert document["reasons"]


def test_a_given_role_is_kept() -> None:
    """As in a task."""
    document = json.loads(run("hello", "--role", "QA-Agent", "--json").stdout)

    assert (document["mode"], document["role"], document["confidence"]) == ("Agent", "QA-Agent", 1.0)


def test_the_engine_is_the_first_that_would_be_called(tmp_path: Path) -> None:
    """A strong engine for a hard prompt, and never one that is switched off.

    Without configuration, a discovered engine.
    """
    settings = {"off": "toggle = false", "quick": 'tier = "fast"', "deep": 'tier = "strong"'}
    path = tmp_path / "engines.toml"
    path.write_text("".join(ENGINE.format(name, setting) for name, setting in settings.items()))

    named = [
        json.loads(run("hello", "--role", role, LLM_SERVER_CONFIG=str(path)).stdout)["engine"]
        for role in ("Chat-Agent", "Architect-Agent")
    ]
    found = json.loads(run("hello", OPENAI_API_KEY="k").stdout)["engine"]

    assert (named, found) == (["quick", "deep"], "openai")


@pytest.mark.parametrize("prompt", ["Write a Python function", UNSURE, " hello\n", "Build it, test it, then deploy it"])
@pytest.mark.parametrize("fields", [{}, {"profile": "Law"}, {"profile": "Developer"}, {"role": "Legal-Agent"}])
def test_the_decision_is_the_same_as_a_servers(server: CalledServer, prompt: str, fields: dict[str, str]) -> None:
    """Field for field, with the roles, profiles, threshold and engines of the configuration file."""
    options = [word for name, value in fields.items() for word in (f"--{name}", value)]

    shown = json.loads(run(prompt, *options, "--json", LLM_SERVER_CONFIG=str(server.settings.config)).stdout)

    decided = server.post({"prompt": prompt, **fields}, "tasks?dry_run=true").json
    assert shown == decided


def test_below_the_threshold_the_profiles_default_role_answers(server: CalledServer) -> None:
    """The sentence about it is the same as the server's."""
    shown = json.loads(run(UNSURE, "--profile", "Law", LLM_SERVER_CONFIG=str(server.settings.config)).stdout)

    assert (shown["mode"], shown["role"]) == ("Chat", "Legal-Agent")
    assert shown["confidence"] < 0.95
    assert "is below 0.95: Legal-Agent answers in Chat mode" in shown["reasons"][-1]


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["hello", "--role", "Nope"], "role", "Nope"),
        (["hello", "--profile", "Nope"], "profile", "Nope"),
        ([" \n"], "prompt", " \n"),
        ([""], "prompt", ""),
        (["x" * 200_001], "prompt", "x" * 200_001),
    ],
)
def test_input_that_the_server_refuses_is_refused_with_the_same_sentence(
    server: CalledServer, arguments: list[str], field: str, value: str
) -> None:
    """Unknown names and blank or too long prompts get no decision."""
    refused = run(*arguments, LLM_SERVER_CONFIG=str(server.settings.config))

    detail = server.post({"prompt": "hello", field: value}).detail
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", f"{detail}\n")


@pytest.mark.parametrize(
    ("text", "named"), [("[defaults]\nprofile = 'Nope'", "defaults.profile 'Nope'"), ("[", "cannot be read")]
)
def test_an_invalid_configuration_is_named(tmp_path: Path, text: str, named: str) -> None:
    """It is not ignored, and no traceback is printed."""
    path = tmp_path / "over.toml"
    path.write_text(text)

    refused = run("hello", LLM_SERVER_CONFIG=str(path))

    assert (refused.exit_code, refused.stdout) == (2, "")
    assert named in refused.stderr


def test_each_label_of_a_file_is_evaluated(tmp_path: Path) -> None:
    """Roles, modes, calibration, abstention and confusion; the recovered quality gap; the ranking of several steps."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")

    shown = run("--eval", str(path)).stdout

    assert shown.startswith("7 prompts\nrole acceptable: 0.667 (")
    for part in (
        "mode acceptable: 0.667 (",
        "calibration error: ",
        "abstained (confidence below 0.7): ",
        "Writing           ",
        "APGR by complexity: 0.750 (",
        "APGR by prompt length: ",
        "several steps: AUROC 1.000",
    ):
        assert part in shown


TWO_ROLES = """
[profiles.Own]
purpose = "Law and food."
default_role = "Recipe-Agent"

[roles.Recipe-Agent]
profiles = ["Own"]
purpose = "Finds recipes: cooking, baking."
system_prompt = "You cook."

[roles.Legal-Agent]
profiles = ["Own"]
purpose = "Answers questions of law."
system_prompt = "You are a lawyer."
examples = ["Can my landlord keep the deposit?"]
"""


def test_roles_of_the_configuration_are_chosen_and_evaluated(tmp_path: Path) -> None:
    """A profile of two own roles sent every prompt to the first one. Labels may name own roles."""
    config, path = tmp_path / "over.toml", tmp_path / "rows.jsonl"
    config.write_text(TWO_ROLES)
    rows = [
        {"prompt": "The landlord wants the deposit", "ok_roles": ["Legal-Agent"]},
        {"prompt": "baking for beginners", "ok_roles": ["Recipe"]},
        {"prompt": "Write a Python function", "ok_roles": ["Coder"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = {"LLM_SERVER_CONFIG": str(config)}

    document = json.loads(run("Can my landlord keep the deposit?", "--profile", "Own", **settings).stdout)
    beside = run("--eval", str(path), **settings).stdout
    alone = run("--eval", str(path), "--profile", "Own", **settings).stdout

    assert (document["mode"], document["role"], document["profile"]) == ("Agent", "Legal-Agent", "Own")
    assert document["reasons"][0].startswith('like its example "Can my landlord keep the deposit?" (words: ')
    assert beside.startswith("3 prompts\nrole acceptable: 1.000 (")
    assert alone.startswith("3 prompts\nrole acceptable: 0.667 (")


def test_the_server_plans_and_shows_roles_of_the_configuration(tmp_path: Path) -> None:
    """The embedded engine gives steps to them, and the catalogue shows their examples."""
    with called_server(tmp_path, TWO_ROLES) as server:
        task_id = server.created("1. Can my landlord keep the deposit?\n2. Write a Python function", mode="Plan")
        server.work()
        steps = server.get(f"tasks/{task_id}").json["plan"]["steps"]
        roles = server.get("catalog").json["roles"]

    assert [step["role"] for step in steps] == ["Legal-Agent", "Fast-Coder-Agent"]
    assert roles["Legal-Agent"]["examples"] == ["Can my landlord keep the deposit?"]
    assert roles["Recipe-Agent"]["examples"] == []


@pytest.mark.parametrize(
    ("ok_roles", "why"), [(["Legal-Agent"], "unknown role 'Legal-Agent'; known are Chat-Agent,"), ("QA", "not a list")]
)
def test_an_unknown_role_in_a_file_is_named(tmp_path: Path, ok_roles: object, why: str) -> None:
    """It would count as a wrong decision; the line and the known names are given."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n' + json.dumps({"prompt": "b", "ok_roles": ok_roles}))

    refused = run("--eval", str(path))

    assert refused.exit_code == 2
    shown = " ".join(refused.stderr.replace("│", " ").split())
    assert "rows.jsonl, line 2: ok_roles" in shown
    assert why in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "x", "weak": "a", "strong": 1.0}', "weak is not a number"),
        (b'{"prompt": "x", "ok_roles": ["Coder"], "role": ["x"]}', "role is not a text"),
        (b'{"prompt": "x", "ok_roles": ["Coder"], "ok_modes": "Chat"}', "ok_modes is not a list"),
        (b'{"prompt": "x", "multi_step": "yes"}', "multi_step is not true or false"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
    ],
)
def test_a_label_of_the_wrong_type_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    """With the line, and without a traceback."""
    path = tmp_path / "labels.jsonl"
    path.write_bytes(line + b"\n")

    refused = run("--eval", str(path))

    assert refused.exit_code == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unknown_profile_or_a_wrong_configuration_evaluates_nothing(tmp_path: Path) -> None:
    """The sentence is that of a decision."""
    path, config = tmp_path / "rows.jsonl", tmp_path / "over.toml"
    path.write_text('{"prompt": "a"}')
    config.write_text("[")

    unknown = run("--eval", str(path), "--profile", "Nope")
    wrong = run("--eval", str(path), LLM_SERVER_CONFIG=str(config))

    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith("Unknown profile 'Nope'")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


@pytest.mark.parametrize(("text", "why"), [("[]", 'no text "prompt"'), ("{", "not JSON")])
def test_an_unreadable_line_of_a_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    """Without a traceback."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hello"}\n' + text)

    refused = run("--eval", str(path))

    assert refused.exit_code == 2
    assert "rows.jsonl, line 2" in refused.stderr
    assert why.split()[-1] in refused.stderr


@pytest.mark.parametrize("arguments", [[], ["hello", "--eval", __file__]])
def test_either_a_prompt_or_a_file_is_required(arguments: list[str]) -> None:
    """Both and neither are refused."""
    assert run(*arguments).exit_code == 2


def test_labels_are_families_of_roles() -> None:
    """Four coding roles share one label, and so do three writing roles."""
    assert [family(role) for role in ("Debug-Agent", "Email-Agent", "Chat-Agent", "QA-Agent")] == [
        "Coder",
        "Writing",
        "Chat-Agent",
        "QA",
    ]


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("price = {input = 0.1, output = 0.4}", r"mini, about \$0\.000\d+, at most \$0\.000\d+"),
        ("", "mini, at an unknown price"),
    ],
)
def test_a_decision_says_which_engine_would_be_asked_about_the_task_and_its_price(
    tmp_path: Path, price: str, said: str
) -> None:
    """If the caller decides, none would."""
    config = tmp_path / "engines.toml"
    config.write_text(
        '[defaults]\ntriage = "always"\n'
        + ENGINE.format("mini", f'source = "api"\n{price}').replace('source = "local"\n', ""),
        encoding="utf-8",
    )

    def triage(*arguments: str) -> str:
        shown = run("Say hello", "--text", *arguments, LLM_SERVER_CONFIG=str(config)).stdout.splitlines()
        return next(line.partition(" ")[2].strip() for line in shown if line.startswith("triage"))

    assert re.fullmatch(said, triage())
    assert triage("--role", "Writing-Agent") == "-"
