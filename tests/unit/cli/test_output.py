"""The output of commands on a terminal and in a pipe."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_server.cli import display
from llm_server.cli.app import app
from support.command_line import on_terminal, run
from support.scripted_server import Reply, Script

COMMANDS: dict[str, tuple[Sequence[str], dict[str, Any], str]] = {
    "list": (["list"], {"tasks": [{"task_id": "t1", "status": "Queued"}], "next_page_token": ""}, "t1  Queued"),
    "metrics": (["metrics"], {"server_status": "online", "llm_status": {"main": "cooling"}}, "llm_status · main "),
    "engines": (["engines"], {"engines": {"main": {"status": "online", "toggle": True}}}, "name  kind"),
    "switch": (["engines", "lock", "main"], {"status": "locked", "toggle": True}, "main is locked"),
    "dry run": (["submit", "x", "--dry-run"], {"mode": "Plan", "reasons": ["three verbs"]}, "reasons  three verbs"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_json_and_a_terminal_gets_text(server: Script, name: str) -> None:
    """`--text` and `--json` choose the form in both places."""
    arguments, body, line = COMMANDS[name]
    server.replies = [Reply(body=body)]
    document = {"tasks": body["tasks"]} if name == "list" else body

    piped, piped_text = run(server, *arguments), run(server, *arguments, "--text")
    shown = [on_terminal(*arguments, *option, "--url", server.url) for option in ([], ["--json"])]

    assert json.loads(piped.stdout) == document
    assert line in piped_text.stdout
    assert [code for code, _ in shown] == [0, 0]
    assert line in shown[0][1]
    assert json.loads(shown[1][1]) == document


def test_route_prints_json_into_a_pipe_and_text_on_a_terminal() -> None:
    """`route` needs no server."""
    piped = CliRunner().invoke(app, ["route", "hello"])
    code, shown = on_terminal("route", "hello")

    assert json.loads(piped.stdout)["role"] == "Chat-Agent"
    assert code == 0
    assert "role          Chat-Agent" in shown


def test_both_commands_that_print_a_decision_print_the_same_json(server: Script) -> None:
    """Byte for byte, even if the server's document has other spaces."""
    routed = CliRunner().invoke(app, ["route", "hello"])
    server.replies = [Reply(body=json.dumps(json.loads(routed.stdout), separators=(",", ":")).encode())]

    assert run(server, "submit", "hello", "--dry-run").stdout == routed.stdout


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ("", "-"), (0, "0"), (0.0, "0.0"), (False, "false"), (True, "true"), ("x", "x")]
)
def test_only_a_missing_or_an_empty_value_is_a_dash(value: object, text: str) -> None:
    assert display.word(value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 calls"), (1, "1 call"), (1200, "1,200 calls")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert display.counted(number, "call") == text


@pytest.mark.parametrize("command", ["submit", "list", "metrics", "engines", "route"])
def test_the_help_explains_the_output_in_a_pipe(command: str) -> None:
    """So that the author of a script is not surprised."""
    shown = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())

    assert "in a pipe or a file" in shown
