"""The commands that list and change tasks, against a real server on loopback."""

import json
import signal
import subprocess
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from support.command_line import run, started
from support.scripted_server import Reply, Script, task

PLAN = {
    "goal": "A cache.",
    "hash": "h1",
    "steps": [
        {"id": "design", "role": "Architect-Agent", "instruction": "Design it.", "depends_on": []},
        {"id": "code", "role": "Fast-Coder-Agent", "instruction": "Write it.", "depends_on": ["design"]},
    ],
}
WAITING_PLAN = task("Planned", awaiting_approval=True, plan=PLAN)


def page(*tasks: dict[str, Any], token: str = "") -> Reply:
    return Reply(body={"tasks": tasks, "next_page_token": token})


def listed(name: str, **fields: Any) -> dict[str, Any]:
    """Return a task as a list shows it."""
    return {
        "task_id": name,
        "status": "Completed",
        "error": None,
        "mode": "Agent",
        "role": "QA-Agent",
        "engine": "main",
        "waiting_for": None,
        "awaiting_approval": False,
        "receipt": {"cost_microusd": 1500, "unpriced_calls": 0},
        "created_at": "2026-10-01T12:34:56.789Z",
        **fields,
    }


def queries(server: Script) -> list[list[tuple[str, str]]]:
    """Return the query parameters of every request."""
    assert {urlsplit(asked.line).path for asked in server.asked} == {"GET /api/v1/tasks"}
    return [parse_qsl(urlsplit(asked.line).query) for asked in server.asked]


def test_list_prints_one_task_a_line(server: Script) -> None:
    """With its cost, and what it waits for or why it failed. No text can break a line or control the terminal."""
    server.replies = [
        page(
            listed("t1"),
            listed("t2", status="Queued", engine=None, waiting_for="main, spare", receipt={}),
            listed("t3", status="Planned", awaiting_approval=True, receipt={"cost_microusd": 7, "unpriced_calls": 1}),
            listed("t4", status="Failed", error="No\nengine \x1b]0;evil", receipt={"unpriced_calls": 2}),
        )
    ]

    result = run(server, "list", "--text")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "id  status     mode   role      engine  created               cost                  waits for / error",
        "t1  Completed  Agent  QA-Agent  main    2026-10-01T12:34:56Z  $0.0015               -",
        "t2  Queued     Agent  QA-Agent  -       2026-10-01T12:34:56Z  $0                    main, spare",
        "t3  Planned    Agent  QA-Agent  main    2026-10-01T12:34:56Z  $0.000007 + unpriced  approval of its plan",
        "t4  Failed     Agent  QA-Agent  main    2026-10-01T12:34:56Z  unpriced              No engine ]0;evil",
    ]


def test_list_sends_every_filter_under_the_names_of_the_api(server: Script) -> None:
    """Statuses and metadata filters may be given several times; a date means its midnight in UTC."""
    server.replies = [page()]
    options = "--status Failed --status Queued --role QA-Agent --mode Plan --engine main --not-awaiting-approval"
    times = "--created-from 2026-10-01 --created-to 2026-10-02T01:00:00+02:00"

    run(server, "list", *options.split(), *times.split(), "--metadata", "team=a=b", "--metadata", "x=")

    assert sorted(parse_qsl(urlsplit(server.asked[0].line).query, keep_blank_values=True)) == [
        ("awaiting_approval", "false"),
        ("created_from", "2026-10-01T00:00:00Z"),
        ("created_to", "2026-10-02T01:00:00+02:00"),
        ("engine", "main"),
        ("metadata.team", "a=b"),
        ("metadata.x", ""),
        ("mode", "Plan"),
        ("page_size", "50"),
        ("role", "QA-Agent"),
        ("status", "Failed"),
        ("status", "Queued"),
    ]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (
            "--created-from",
            "yesterday",
            "'yesterday' is not a time. Give a date (midnight UTC), such as 2026-11-29, or ",
        ),
        ("--created-to", "2026-11-31", "or a time with an offset, such as 2026-11-29T08:00:00Z."),
        ("--metadata", "=x", "'=x' does not have the form KEY=VALUE."),
    ],
)
def test_a_wrong_filter_names_its_option_and_what_is_accepted(
    server: Script, option: str, value: str, said: str
) -> None:
    """Before anything is sent, because the server knows no options."""
    result = run(server, "list", option, value)

    assert (result.exit_code, result.stdout, server.asked) == (2, "", [])
    assert result.stderr.splitlines()[-1].startswith(f"Error: Invalid value for {option}: ")
    assert said in result.stderr


def test_list_continues_after_a_short_and_an_empty_page(server: Script) -> None:
    """The server looks at a bounded number of tasks a call, so only a missing token ends the list."""
    server.replies = [page(listed("t1"), token="a+b"), page(token="c"), page(listed("t2"))]

    result = run(server, "list", "--role", "QA-Agent")

    assert [each["task_id"] for each in json.loads(result.stdout)["tasks"]] == ["t1", "t2"]
    assert queries(server) == [
        [("role", "QA-Agent"), ("page_size", "50")],
        [("role", "QA-Agent"), ("page_size", "49"), ("page_token", "a+b")],
        [("role", "QA-Agent"), ("page_size", "49"), ("page_token", "c")],
    ]
    assert result.stderr == ""


def test_list_stops_at_the_limit_and_says_that_there_may_be_more(server: Script) -> None:
    """A page has at most 100 tasks; the last request asks only for the rest."""
    names = [f"t{number}" for number in range(101)]
    server.replies = [page(*map(listed, names[:100]), token="a"), page(listed(names[100]), token="b")]

    result = run(server, "list", "--limit", "101")

    assert [each["task_id"] for each in json.loads(result.stdout)["tasks"]] == names
    assert [dict(query)["page_size"] for query in queries(server)] == ["100", "1"]
    assert result.stderr == "There may be more tasks; --limit 202 shows more.\n"


def test_list_prints_no_more_than_the_limit_from_a_larger_page(server: Script) -> None:
    server.replies = [page(listed("t1"), listed("t2"))]

    assert len(json.loads(run(server, "list", "--limit", "1").stdout)["tasks"]) == 1


@pytest.mark.parametrize(
    ("filters", "sentence"), [([], "There are no tasks.\n"), (["--mode", "Plan"], "No tasks match the filters.\n")]
)
def test_an_empty_list_prints_a_message(server: Script, filters: list[str], sentence: str) -> None:
    """The message is on stderr; a program gets an empty list."""
    server.replies = [page()]

    text, document = run(server, "list", *filters, "--text"), run(server, "list", *filters)

    assert (text.exit_code, text.stdout, text.stderr) == (0, "", sentence)
    assert json.loads(document.stdout) == {"tasks": []}


def test_a_refused_filter_is_exit_2_with_the_servers_detail(server: Script) -> None:
    server.replies = [Reply(body={"detail": "Unknown status 'Done'."}, status=422)]

    result = run(server, "list", "--status", "Done")

    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "Unknown status 'Done'.\n")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [("approve", "Processing", "Task t1 is Processing.\n"), ("reject", "Cancelled", "Task t1 is Cancelled.\n")],
)
@pytest.mark.parametrize(("options", "stdin"), [([], "y\n"), (["--yes"], None)])
def test_a_decision_prints_the_plan_and_sends_its_hash(
    server: Script, command: str, status: str, said: str, options: list[str], stdin: str | None
) -> None:
    """The hash is that of the printed plan, so the decision cannot apply to another plan."""
    server.replies = [Reply(body=WAITING_PLAN), Reply(body=task(status))]

    result = run(server, command, "t1", *options, stdin=stdin)

    assert (result.exit_code, result.stdout) == (0, "")
    assert [(asked.line, asked.body) for asked in server.asked] == [
        ("GET /api/v1/tasks/t1", None),
        (f"POST /api/v1/tasks/t1/{command}", {"plan_hash": "h1"}),
    ]
    shown = "Plan of task t1 (h1)\nGoal: A cache.\n1. design (Architect-Agent)\n   Design it.\n"
    assert result.stderr.startswith(f"{shown}2. code (Fast-Coder-Agent), after design\n   Write it.\n")
    assert result.stderr.endswith(said)


def test_an_approval_shows_the_quote_and_sends_its_limit(server: Script) -> None:
    quote = {"ceiling_microusd": 500_000, "ceiling_reason": "The limit.", "worst_case_microusd": None, "sample": 3}
    server.replies = [Reply(body=WAITING_PLAN | {"quote": quote}), Reply(body=task("Processing"))]

    result = run(server, "approve", "t1", "--yes", "--max-cost-usd", "0.25")

    assert server.asked[-1].body == {"plan_hash": "h1", "max_cost_usd": 0.25}
    assert "The rest: at most $0.5. The limit.\n" in result.stderr
    assert "The rest: 3 finished tasks like it: too few to expect anything\n" in result.stderr


@pytest.mark.parametrize("command", ["approve", "reject"])
@pytest.mark.parametrize("stdin", ["n\n", "", None])
def test_without_confirmation_the_plan_stays_undecided(server: Script, command: str, stdin: str | None) -> None:
    """The end of standard input does not confirm, so a script cannot approve by accident."""
    server.replies = [Reply(body=WAITING_PLAN)]

    result = run(server, command, "t1", stdin=stdin)

    assert (result.exit_code, result.stdout) == (4, "")
    assert "the plan still waits for approval" in result.stderr
    assert [asked.line for asked in server.asked] == ["GET /api/v1/tasks/t1"]


def test_ctrl_c_at_the_question_leaves_the_plan_undecided(server: Script) -> None:
    """The exit code is the shell's for an interrupt, and no traceback is printed."""
    server.replies = [Reply(body=WAITING_PLAN)]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}

    with started(server, "approve", "t1", **pipes) as process:
        assert process.stderr is not None
        shown = b"".join(iter(process.stderr.readline, b"Approve this plan? [y/N]\n"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, b"")
    assert b"Goal: A cache." in shown
    assert len(server.asked) == 1


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_a_given_hash_is_sent_without_a_question(server: Script, command: str) -> None:
    """For a program that has read the plan itself."""
    server.replies = [Reply(body=task("Processing"))]

    result = run(server, command, "t1", "--plan-hash", "h9", "--json")

    assert json.loads(result.stdout)["status"] == "Processing"
    assert [(asked.line, asked.body) for asked in server.asked] == [
        (f"POST /api/v1/tasks/t1/{command}", {"plan_hash": "h9"})
    ]


@pytest.mark.parametrize("document", [task("Completed", awaiting_approval=False, plan=PLAN), task("Queued", plan=None)])
def test_a_task_without_a_plan_waiting_for_approval_is_not_changed(server: Script, document: dict[str, Any]) -> None:
    server.replies = [Reply(body=document)]

    result = run(server, "approve", "t1", "--yes")

    assert (result.exit_code, len(server.asked)) == (2, 1)
    assert result.stderr == f"Task t1 has no plan that waits for approval; it is {document['status']}.\n"


def test_cancel_prints_the_new_status(server: Script) -> None:
    """On stderr; stdout is for the JSON document, if requested."""
    server.replies = [Reply(body=task("Cancelled"))]

    plain, as_json = run(server, "cancel", "t1"), run(server, "cancel", "t1", "--json")

    assert server.asked[0].line == "POST /api/v1/tasks/t1/cancel"
    assert (plain.exit_code, plain.stdout, plain.stderr) == (0, "", "Task t1 is Cancelled.\n")
    assert json.loads(as_json.stdout)["status"] == "Cancelled"


def test_retry_prints_the_new_status(server: Script) -> None:
    server.replies = [Reply(body=task("Queued"), status=202)]

    result = run(server, "retry", "t1")

    assert server.asked[0].line == "POST /api/v1/tasks/t1/retry"
    assert (result.exit_code, result.stderr) == (0, "Task t1 is Queued.\n")


def test_delete_prints_that_the_task_is_deleted(server: Script) -> None:
    server.replies = [Reply(body=b"", status=204)]

    result = run(server, "delete", "t1")

    assert server.asked[0].line == "DELETE /api/v1/tasks/t1"
    assert (result.exit_code, result.stderr) == (0, "Task t1 is deleted.\n")


def test_a_refused_change_is_exit_2(server: Script) -> None:
    server.replies = [Reply(body={"detail": "The task is Completed."}, status=409)]

    result = run(server, "cancel", "t1")

    assert (result.exit_code, result.stderr) == (2, "The task is Completed.\n")
