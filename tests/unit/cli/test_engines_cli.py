"""`metrics` and `engines` against a real server on loopback."""

import json
from typing import Any

import pytest

from support.command_line import run
from support.scripted_server import Reply, Script


def test_metrics_shows_the_nine_metrics_and_each_engine(server: Script) -> None:
    """A missing value is a dash and not a zero; engine names are not read as markup."""
    figures = {
        "server_status": "online",
        "llm_status": {"local-llm": "online", "[red]api[/red]": "cooling"},
        "tokens_per_second": None,
        "average_response_time": 0.517,
        "total_requests": 12345,
        "active_tasks": 0,
        "queue_length": 2,
        "success_rate": 98.76,
        "api_costs": 0.001234,
    }
    server.replies = [Reply(body=figures)]

    result, as_json = run(server, "metrics", "--text"), run(server, "metrics", "--json")

    shown = {tuple(line.split()) for line in result.stdout.splitlines()}
    assert {("tokens_per_second", "-"), ("active_tasks", "0"), ("total_requests", "12,345")} <= shown
    assert {("average_response_time", "0.52", "s"), ("success_rate", "98.8", "%")} <= shown
    assert {("api_costs", "$0.001234"), ("llm_status", "·", "[red]api[/red]", "cooling")} <= shown
    assert "\x1b" not in result.stdout
    assert json.loads(as_json.stdout) == figures


ENGINES = {
    "[red]gpt[/red]\x1b]0;evil" + "-long" * 20: {
        "kind": "openai", "model": "gpt-5-mini", "source": "api", "tier": None,
        "toggle": False, "locked": True, "tools": True, "vision": False, "max_concurrency": 64, "status": "locked",
    },
}  # fmt: skip


def test_engines_shows_one_line_for_each_engine(server: Script) -> None:
    """Values are those of the API, and a missing one is a dash.

    Long names are not wrapped; control codes are removed.
    """
    server.replies = [Reply(body={"engines": ENGINES})]

    result, as_json = run(server, "engines", "--text"), run(server, "engines", "--json")

    shown = [line.split() for line in result.stdout.splitlines()]
    assert [
        "name",
        "kind",
        "model",
        "source",
        "tier",
        "status",
        "toggle",
        "locked",
        "tools",
        "vision",
        "demonstration",
    ] in shown
    assert [
        "[red]gpt[/red]]0;evil" + "-long" * 20,
        "openai",
        "gpt-5-mini",
        "api",
        "-",
        "locked",
        "false",
        "true",
        "true",
        "false",
        "-",
    ] in shown
    assert json.loads(as_json.stdout) == {"engines": ENGINES}
    assert [asked.line for asked in server.asked] == ["GET /api/v1/engines"] * 2


def test_engines_says_what_a_demonstration_is(server: Script) -> None:
    """The note of the server is on stderr, so that a pipe gets the table alone."""
    note = "A demonstration model, often wrong."
    server.replies = [Reply(body={"engines": {"shown": {"demonstration": True, "note": note}, "main": {"note": None}}})]

    result = run(server, "engines", "--text")

    assert result.stderr == f"shown: {note}\n"
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["demonstration", "true", "-"]


@pytest.mark.parametrize(
    ("switch", "sent"),
    [
        ("on", {"toggle": True}),
        ("off", {"toggle": False}),
        ("lock", {"locked": True}),
        ("unlock", {"locked": False}),
        ("reset", {"toggle": None, "locked": None}),
    ],
)
def test_switching_an_engine_prints_its_new_state(server: Script, switch: str, sent: dict[str, Any]) -> None:
    """The state is the server's answer and not the request: a locked engine that is switched on stays locked."""
    server.replies = [Reply(body={"toggle": True, "locked": True, "status": "locked"})]

    result = run(server, "engines", switch, "openai/gpt", "--text")

    assert (result.exit_code, result.stdout) == (0, "openai/gpt is locked (toggle true, locked true).\n")
    assert [(asked.line, asked.body) for asked in server.asked] == [("PATCH /api/v1/engines/openai%2Fgpt", sent)]


def test_an_unknown_engine_is_exit_2(server: Script) -> None:
    server.replies = [Reply(body={"detail": "Unknown engine 'x'; known are gpt."}, status=404)]

    result = run(server, "engines", "off", "x")

    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "Unknown engine 'x'; known are gpt.\n")
