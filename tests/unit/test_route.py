"""`llm-server route`: a decision without a server, and figures for a file of labelled prompts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli import app
from llm_server.route import family

ROWS = (
    {"prompt": "Write a Python function", "ok_roles": ["Coder"], "ok_modes": ["Agent"]},
    {"prompt": "hello", "ok_roles": ["Chat-Agent"], "ok_modes": ["Chat"]},
    {"prompt": "hello", "ok_roles": ["Writing"], "ok_modes": ["Agent"]},
    {"prompt": "Add 2 and 3. What is it?", "weak": 1.0, "strong": 1.0},
    {"prompt": "Prove the theorem, rigorously, for all integers.", "weak": 0.0, "strong": 1.0},
    {"prompt": "Build it, test it, then deploy it and document it", "multi_step": True},
    {"prompt": "Say hello", "multi_step": False},
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["route", *arguments])


def test_a_decision_is_shown_with_its_reasons() -> None:
    """No server is asked."""
    shown = run("Write a Python function that reverses a string").stdout

    assert shown.startswith("Agent by Fast-Coder-Agent, confidence 0.")
    assert "  because: python (+" in shown
    assert "  or else: " in shown


def test_a_decision_is_one_document_for_programs() -> None:
    """The same words as the API."""
    document = json.loads(run("hello", "--json").stdout)

    assert (document["mode"], document["role"]) == ("Chat", "Chat-Agent")
    assert document["reasons"]


def test_a_role_that_is_settled_is_kept() -> None:
    """As in a request."""
    assert run("hello", "--role", "QA-Agent").stdout.startswith("Agent by QA-Agent, confidence 1.00")


def test_a_file_is_measured_for_what_it_has_labels_for(tmp_path: Path) -> None:
    """Roles, modes, calibration, abstention, confusion; the recovered gap; the ranking of steps."""
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


@pytest.mark.parametrize(("text", "why"), [("[]", 'no text "prompt"'), ("{", "not JSON")])
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path: Path, text: str, why: str) -> None:
    """Not a traceback."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hello"}\n' + text)

    refused = run("--eval", str(path))

    assert refused.exit_code == 2
    assert "rows.jsonl, line 2" in refused.stderr
    assert why.split()[-1] in refused.stderr


@pytest.mark.parametrize("arguments", [[], ["hello", "--eval", __file__]])
def test_a_prompt_or_a_file_is_needed(arguments: list[str]) -> None:
    """Not both, not neither."""
    assert run(*arguments).exit_code == 2


def test_labels_name_families() -> None:
    """Four coders are one label, and so are three writers."""
    assert [family(role) for role in ("Debug-Agent", "Email-Agent", "Chat-Agent", "QA-Agent")] == [
        "Coder",
        "Writing",
        "Chat-Agent",
        "QA",
    ]
