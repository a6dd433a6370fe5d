"""The commands against a real server on loopback: what is printed on which stream, and the exit codes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_server import __version__
from llm_server.cli.app import app
from llm_server.orchestration.domain.engines import demonstration
from support.command_line import on_terminal, run, started
from support.scripted_server import Reply, Script, task

DONE = task(
    "Completed",
    result="**Grüße** 🌍",
    mode="Agent",
    role="Writing-Agent",
    engine=None,
    attempts=[{"engine": "slow", "error": "busy"}, {"engine": "local-llm", "error": None}],
    receipt={"calls": 2, "tokens_in": 1200, "tokens_out": 34, "cost_microusd": 1500, "duration_ms": 2340},
)

WAITING_PLAN = task("Planned", awaiting_approval=True, plan={"hash": "h", "steps": []}, receipt={})


def until_asked(server: Script, times: int) -> None:
    ends = time.monotonic() + 20
    while len(server.asked) < times and time.monotonic() < ends:
        time.sleep(0.01)


def test_a_call_that_was_lost_with_its_worker_is_named_below_the_answer(server: Script) -> None:
    """With the money that is withheld for it, which is not part of the cost."""
    lost = {"engine": "gpt", "error": "The worker died.", "failure": "lost", "withheld_microusd": 4200}
    late = {"engine": "gpt", "error": "Too late.", "failure": "timeout", "withheld_microusd": 1}
    server.replies = [Reply(body=DONE | {"attempts": [lost, late, lost]})]

    result = run(server, "get", "t1")

    assert result.stderr.endswith(" · $0.0015 · 2 calls lost with a worker ($0.0084 withheld)\n")


def test_submit_prints_only_the_answer_on_stdout(server: Script) -> None:
    """A pipe gets the answer as the engine wrote it, without colour codes; everything else is on stderr."""
    server.replies = [Reply(body=task("Completed", result="**Grüße** 🌍")), Reply(body=DONE)]

    result = run(server, "submit", "Sag Grüße 🌍")

    assert result.exit_code == 0
    assert result.stdout_bytes == "**Grüße** 🌍\n".encode()
    assert result.stderr == "Agent · Writing-Agent · local-llm · 1,200 tokens in, 34 out · 2.3 s · $0.0015\n"
    assert server.asked[0].body == {"prompt": "Sag Grüße 🌍"}


def test_the_footer_shows_the_tokens_of_the_cache_and_of_the_reasoning(server: Script) -> None:
    """And it says if the counts of a call cannot be true; failed calls are left out."""
    cached = {"engine": "gpt", "cache_read_tokens": 1000, "cache_write_tokens": 50, "reasoning_tokens": 20}
    failed = {"engine": "slow", "error": "Busy.", "cache_read_tokens": 9}
    server.replies = [Reply(body=DONE | {"attempts": [failed, cached, {"engine": "gpt", "usage_implausible": True}]})]

    assert run(server, "submit", "Hi").stderr == (
        "Agent · Writing-Agent · gpt · 1,200 tokens in (1,000 cached, 50 written to the cache), 34 out (20 reasoning) "
        "· 2.3 s · $0.0015 · 1 call with implausible token counts\n"
    )


def test_a_task_that_was_cancelled_shows_what_its_failed_calls_took(server: Script) -> None:
    broken = {"tokens_in": 412, "duration_ms": 60_000, "usage_estimated": True, "withheld_microusd": 9_146}
    attempts = [{"engine": "gpt", "error": None, "tokens_in": 7}, {"engine": "gpt", "error": "Cancelled.", **broken}]
    server.replies = [Reply(body=task("Cancelled", error=None, attempts=attempts))]

    assert run(server, "submit", "Hi").stderr == (
        "Task t1 cancelled: no reason given.\n"
        "1 failed call · about 412 tokens in, 0 out · 60.0 s · $0 · up to $0.009146 may still be billed\n"
    )


def test_a_faulty_answer_is_printed_with_a_warning(server: Script) -> None:
    """The warning is on stderr, after the answer, and names the steps of a plan whose results are faulty."""
    steps = [{"id": "s1", "fault": "a refusal"}, {"id": "s2", "fault": None}, {"id": "s3"}]
    plan = {"steps": steps}
    server.replies = [Reply(body=DONE | {"fault": "wrong arithmetic: 2 + 3 = 6", "plan": plan}), Reply(body=DONE)]

    faulty, sound = run(server, "get", "t1"), run(server, "get", "t1")

    assert (faulty.exit_code, faulty.stdout) == (0, sound.stdout)
    assert faulty.stderr.splitlines() == [
        "The result of step s1 may be faulty: a refusal.",
        "This answer may be faulty: wrong arithmetic: 2 + 3 = 6.",
        *sound.stderr.splitlines(),
    ]
    assert len(sound.stderr.splitlines()) == 1


def test_a_demonstration_is_named_after_the_answer(server: Script) -> None:
    """On stderr, with the command that brings a better model. The embedded engine's answer says itself what it is."""
    shown = DONE | {"demonstration": True}
    server.replies = [
        Reply(body=shown | {"engine": "demonstration"}),
        Reply(body=shown | {"engine": "embedded"}),
        Reply(body=DONE),
    ]

    model, embedded, real = (run(server, "get", "t1") for _ in range(3))

    assert model.stderr == f"{real.stderr}{demonstration.OF_MODEL}\n"
    assert embedded.stderr == real.stderr
    assert model.stdout == real.stdout


def test_submit_waits_until_the_task_is_final(server: Script) -> None:
    """202 and answers for unfinished tasks do not end the wait.

    A piped submit first asks the server to hold the answer.
    """
    server.replies = [
        Reply(body=task("Queued"), status=202, retry_after="0.05"),
        Reply(body=task("Processing"), retry_after="0.05"),
        Reply(
            body=task("Planned", plan={"steps": [{"status": "Completed"}, {"status": "Waiting"}]}), retry_after="0.05"
        ),
        Reply(body=DONE),
    ]

    result = run(server, "submit", "x")

    assert (result.exit_code, result.stdout) == (0, "**Grüße** 🌍\n")
    assert server.asked[0].headers["Prefer"] == "wait=25"
    assert [asked.line for asked in server.asked] == ["POST /api/v1/tasks"] + ["GET /api/v1/tasks/t1"] * 3


def test_submit_sends_every_option_under_the_names_of_the_api(server: Script) -> None:
    """Limits and metadata are objects; options that are not given are not sent. The server checks the values."""
    server.replies = [Reply(body=task("Queued"), status=202)]
    options = "--profile Developer --role QA-Agent --mode Agent --engine e1 --max-cost-usd 0 --deadline-s 30"

    result = run(
        server, "submit", "x", "--no-wait", *options.split(), "--max-output-tokens", "9", "--plan-approval",
        "--priority", "batch", "--source", "local, api", "--source", "local", "--after", "t0",
        "--metadata", "team=a=b", "--metadata", "x=",
    )  # fmt: skip

    assert result.exit_code == 0
    assert server.asked[0].body == {
        "prompt": "x",
        "profile": "Developer",
        "role": "QA-Agent",
        "mode": "Agent",
        "engine": "e1",
        "limits": {"max_cost_usd": 0, "deadline_s": 30, "max_output_tokens": 9, "sources": ["local", "api", "local"]},
        "metadata": {"team": "a=b", "x": ""},
        "plan_approval": True,
        "priority": "batch",
        "previous_task_id": "t0",
    }


def test_submit_sends_images_as_data_urls(server: Script, tmp_path: Path) -> None:
    server.replies = [Reply(body=task("Queued"), status=202)]
    for name in ("a.PNG", "b.jpg"):
        (tmp_path / name).write_bytes(b"picture")
    (tmp_path / "c.txt").touch()

    result = run(
        server, "submit", "x", "--no-wait", "--image", str(tmp_path / "a.PNG"), "--image", str(tmp_path / "b.jpg")
    )
    wrong = run(server, "submit", "x", "--no-wait", "--image", str(tmp_path / "c.txt"))

    assert result.exit_code == 0
    urls = [each["url"] for each in server.asked[0].body["attachments"]]
    assert urls == ["data:image/png;base64,cGljdHVyZQ==", "data:image/jpeg;base64,cGljdHVyZQ=="]
    assert (wrong.exit_code, "c.txt does not end in one of .png" in wrong.stderr) == (2, True)
    assert len(server.asked) == 1


def test_function_calls_are_printed_beside_the_answer(server: Script) -> None:
    calls = [{"call_id": "c1", "name": "get_weather", "arguments": '{"city":"Paris"}'}]
    server.replies = [Reply(body=task("Completed", result="", tool_calls=calls, receipt={}))]

    result = run(server, "get", "t1")

    assert 'Asks for get_weather({"city":"Paris"}), call c1.' in result.stderr


def test_no_wait_prints_only_the_id_on_stdout(server: Script) -> None:
    """`id=$(llm-server submit --no-wait …)` holds only the id."""
    server.replies = [Reply(body=task("Queued"), status=202)]

    result = run(server, "submit", "x", "--no-wait")

    assert (result.exit_code, result.stdout) == (0, "t1\n")
    assert f"llm-server get t1 --wait --url {server.url}" in result.stderr
    assert len(server.asked) == 1


def test_json_is_the_servers_document_byte_for_byte(server: Script) -> None:
    """White space, escapes and numbers stay as they are, also for a failed task. The exit code does not change."""
    body = b'{ "task_id":"t1","status" : "Failed","error":"\\u00fc \xc3\xbc \\ud83d",\n"n":1.50,"receipt":{}}'
    server.replies = [Reply(body=body)]

    waited, read = run(server, "submit", "x", "--json"), run(server, "get", "t1", "--json")

    assert waited.stdout_bytes == read.stdout_bytes == body + b"\n"
    assert (waited.exit_code, read.exit_code) == (1, 1)


def test_submit_json_is_the_full_document_however_soon_the_task_ends(server: Script) -> None:
    """Scripts see the same shape, whether the POST was held until the end or the task was polled."""
    server.replies = [Reply(body=task("Completed", result="x")), Reply(body=DONE)]

    assert json.loads(run(server, "submit", "x", "--json").stdout) == DONE


def test_an_answer_is_printed_even_if_the_receipt_cannot_be_read(server: Script) -> None:
    """The result came with the POST; the footer with the receipt is optional."""
    server.replies = [Reply(body=task("Completed", result="kept")), Reply(body=None)]

    result = run(server, "submit", "x")

    assert (result.exit_code, result.stdout) == (0, "kept\n")


@pytest.mark.parametrize("prompt", ["erste Zeile: Grüße\nzweite 🌍\n", "x" * 200_000])
def test_a_dash_reads_the_prompt_from_stdin(server: Script, prompt: str) -> None:
    """With all lines, any script, and more text than an argument can hold."""
    server.replies = [Reply(body=DONE)]

    assert run(server, "submit", "-", stdin=prompt).exit_code == 0
    assert server.asked[0].body == {"prompt": prompt}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (task("Failed", error="No engine answered."), "Task t1 failed: No engine answered.\n"),
        (task("Cancelled", error=None), "Task t1 cancelled: no reason given.\n"),
    ],
)
def test_a_task_without_an_answer_is_exit_1(server: Script, document: dict[str, Any], said: str) -> None:
    """Stdout stays empty, so that an error is not taken for an answer."""
    server.replies = [Reply(body=document)]

    for result in (run(server, "submit", "x"), run(server, "get", "t1"), run(server, "get", "t1", "--wait")):
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", said)


def test_a_refusal_is_exit_2_with_the_servers_detail(server: Script) -> None:
    """The server's sentence says what to change."""
    server.replies = [Reply(body={"detail": "Unknown role 'X'; known are Chat-Agent."}, status=422)]

    result = run(server, "submit", "x", "--role", "X")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Unknown role 'X'; known are Chat-Agent.\n"


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["submit"], None),
        (["submit", "x", "--metadata", "no-pair"], None),
        (["submit", "x", "--timeout", "-1"], None),
        (["submit", "-"], b"\xff\xfe"),
        (["submit", "bad \udcff byte"], None),
        (["submit", "x", "--url", "localhost:8000"], None),
        (["get", " "], None),
        (["engines", "off"], None),
        (["engines", "gpt"], None),
        (["serve", "--port", "70000"], None),
        (["serve", "--workers", "0"], None),
        (["serve", "--workers", "1025"], None),
    ],
)
def test_wrong_usage_is_exit_2_before_anything_is_sent(arguments: list[str], stdin: bytes | None) -> None:
    """The last line says what is wrong."""
    result = CliRunner().invoke(app, arguments, input=stdin)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_broken_server_is_exit_3(server: Script) -> None:
    """A 5xx is the server's fault and not the caller's."""
    server.replies = [Reply(body={"detail": "The store cannot be reached."}, status=503)]

    result = run(server, "submit", "x")

    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "The store cannot be reached.\n")


def test_a_timeout_is_exit_4_and_names_the_command_that_gets_the_task(server: Script) -> None:
    """The task continues, and the printed command fetches its answer later."""
    server.replies = [Reply(body=task("Queued"), status=202, retry_after="9")]

    result = run(server, "submit", "x", "--timeout", "0.2")

    assert (result.exit_code, result.stdout) == (4, "")
    assert "Task t1 is not final (Queued)." in result.stderr
    assert f"llm-server get t1 --wait --url {server.url}" in result.stderr
    assert "Prefer" not in server.asked[0].headers


def test_a_waiting_task_says_for_which_engines_and_since_when(server: Script) -> None:
    """Also if only the POST was answered in time, which has four fields and no reason."""
    waiting = task("Queued", waiting_for="main, spare", waiting_since="2026-10-01T12:34:56.789Z", receipt={})
    server.replies = [Reply(body=task("Queued"), status=202), Reply(body=waiting)]

    submitted, read = run(server, "submit", "x", "--timeout", "0"), run(server, "get", "t1")

    for result in (submitted, read):
        assert (result.exit_code, result.stdout) == (4, "")
        assert result.stderr.splitlines() == [
            "Task t1 is not final (Queued); it waits for main, spare since 2026-10-01T12:34:56Z.",
            f"Task t1 continues on the server. To get its answer: llm-server get t1 --wait --url {server.url}",
        ]
    assert [asked.line for asked in server.asked] == ["POST /api/v1/tasks"] + ["GET /api/v1/tasks/t1"] * 2


@pytest.mark.parametrize("command", [["get", "t1"], ["get", "t1", "--wait"], ["submit", "x", "--plan-approval"]])
def test_a_plan_waiting_for_approval_ends_the_wait_and_names_the_commands(server: Script, command: list[str]) -> None:
    """Each command has a line of its own, so that it can be copied."""
    server.replies = [Reply(body=WAITING_PLAN, retry_after="0.05")]

    result = run(server, *command)

    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.splitlines() == [
        "Task t1 is not final (Planned); it waits for approval of its plan.",
        "To read the plan and approve it:",
        f"  llm-server approve t1 --url {server.url}",
        "To reject the plan, which cancels the task:",
        f"  llm-server reject t1 --url {server.url}",
        "To get the task's answer after you approved the plan:",
        f"  llm-server get t1 --wait --url {server.url}",
    ]
    assert len(server.asked) == 1


def test_a_submit_in_a_pipe_does_not_let_the_server_hold_a_plan_that_waits(server: Script) -> None:
    """The server holds its answer until the task is final, and such a task would be held for the whole time."""
    server.replies = [Reply(body=task("Planned"), status=202, retry_after="0.05"), Reply(body=WAITING_PLAN)]

    result = run(server, "submit", "x", "--plan-approval", "--json")

    assert (result.exit_code, json.loads(result.stdout)) == (4, WAITING_PLAN)
    assert server.asked[0].headers["Prefer"] == "wait=2"
    assert len(server.asked) == 2


def test_an_approved_plan_is_waited_for(server: Script) -> None:
    approved = task("Planned", awaiting_approval=False, plan=WAITING_PLAN["plan"])
    server.replies = [Reply(body=approved, retry_after="0.05"), Reply(body=DONE)]

    result = run(server, "get", "t1", "--wait")

    assert (result.exit_code, result.stdout) == (0, "**Grüße** 🌍\n")


def test_a_terminal_shows_the_whole_command_that_approves(server: Script) -> None:
    """The line of the spinner is cut at the width of the terminal, so the command is not there."""
    waiting = WAITING_PLAN | {"task_id": "t" * 100}
    server.replies = [Reply(body=task("Queued"), status=202, retry_after="0.05"), Reply(body=waiting)]

    code, shown = on_terminal("submit", "x", "--plan-approval", "--url", server.url)  # the terminal has 80 columns

    assert code == 4
    assert f"\n  llm-server approve {'t' * 100} --url {server.url}\x1b[0m\r\n" in shown
    assert f"\n  llm-server reject {'t' * 100} --url {server.url}\x1b[0m\r\n" in shown


def test_get_of_an_open_task_is_exit_4(server: Script) -> None:
    """Scripts can poll with the exit code alone."""
    server.replies = [Reply(body=task("Processing"))]

    assert run(server, "get", "t1").exit_code == 4
    assert len(server.asked) == 1


def test_get_wait_follows_the_task_until_it_is_final(server: Script) -> None:
    """Users continue an interrupted submit in this way."""
    server.replies = [Reply(body=task("Processing"), retry_after="0.05"), Reply(body=DONE)]

    result = run(server, "get", "t1", "--wait")

    assert (result.exit_code, result.stdout) == (0, "**Grüße** 🌍\n")


def test_dry_run_prints_the_decision(server: Script) -> None:
    """One field a line, and one line for each item of a list; numbers and pairs are not in Python's notation."""
    decision = {
        "mode": "Plan",
        "engine": None,
        "confidence": 0.9,
        "multi_step": -0.0001,
        "reasons": ["three verbs", "a list"],
        "alternatives": [["QA-Agent", 0.124], ["Chat-Agent", 0.05]],
    }
    server.replies = [Reply(body=decision)]

    result, as_json = run(server, "submit", "x", "--dry-run", "--text"), run(server, "submit", "x", "--dry-run")

    assert result.stdout.splitlines() == [
        "mode          Plan",
        "engine        -",
        "confidence    0.90",
        "multi_step    0.00",
        "reasons       three verbs",
        "              a list",
        "alternatives  QA-Agent 0.12",
        "              Chat-Agent 0.05",
    ]
    assert json.loads(as_json.stdout) == decision
    assert {asked.line for asked in server.asked} == {"POST /api/v1/tasks?dry_run=true"}


def test_dry_run_prints_the_quote_in_words(server: Script) -> None:
    quote = {
        "ceiling_microusd": 50_000,
        "ceiling_reason": "The max_cost_usd of 0.05 bounds it.",
        "worst_case_microusd": 2_310,
        "expected_microusd": {"p50": 120, "p90": 480},
        "expected_seconds": {"p50": 1.25, "p90": 5},
        "sample": 57,
    }
    unknown = quote | {"ceiling_microusd": None, "ceiling_reason": "No limit.", "worst_case_microusd": None}
    unknown |= {"expected_microusd": None, "expected_seconds": None, "sample": 1}
    server.replies = [Reply(body={"mode": "Chat", "quote": q}) for q in (quote, unknown)]

    known, little = (run(server, "submit", "x", "--dry-run", "--text") for _ in range(2))

    assert known.stdout.splitlines() == [
        "mode   Chat",
        "quote  at most $0.05. The max_cost_usd of 0.05 bounds it.",
        "       reserves $0.00231 if it is claimed once",
        "       57 finished tasks like it: half cost up to $0.00012, 90 % up to $0.00048; "
        "half took up to 1.2 s, 90 % up to 5.0 s",
    ]
    assert little.stdout.splitlines() == [
        "mode   Chat",
        "quote  no ceiling. No limit.",
        "       1 finished task like it: too few to expect anything",
    ]


def test_missing_fields_of_a_document_are_left_out(server: Script) -> None:
    """Older or newer servers may not send all fields."""
    server.replies = [Reply(body={"task_id": "t1", "status": "Completed", "receipt": {"calls": 1}})]

    result = run(server, "get", "t1")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "\n", "0 tokens in, 0 out · 0.0 s · $0\n")


def test_the_environment_may_name_the_server(server: Script) -> None:
    """LLM_SERVER_URL replaces the option --url."""
    server.replies = [Reply(body={"server_status": "online"})]

    result = CliRunner().invoke(app, ["metrics"], env={"LLM_SERVER_URL": f"{server.url}/prod"})

    assert result.exit_code == 0
    assert server.asked[0].line == "GET /prod/api/v1/metrics"


def test_version_prints_only_the_version() -> None:
    """So that a script can read it."""
    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"llm-server {__version__}\n")


def test_exit_codes_are_in_the_help() -> None:
    """The author of a script finds them without reading the source."""
    shown = CliRunner().invoke(app, ["submit", "--help"]).stdout

    assert [code for code in "01234" if f"\n    {code}    " in shown] == list("01234")
    assert "4    the task is not final yet, or its plan waits for approval" in shown


def test_a_process_ends_with_the_documented_exit_codes(server: Script) -> None:
    """The codes reach the shell, and no failure prints a traceback."""
    ends = [task("Completed"), task("Failed"), {"detail": "No."}, {"detail": "Broken."}, task("Queued")]
    seen = []

    for body, status in zip(ends, [200, 200, 404, 500, 200], strict=True):
        server.replies = [Reply(body=body, status=status)]
        with started(server, "get", "t1", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            _, said = process.communicate(timeout=30)
        seen.append(process.returncode)
        assert b"Traceback" not in said
    assert seen == [0, 1, 2, 3, 4]


def test_a_closed_port_is_exit_3() -> None:
    """This most common failure names the address."""
    url = "http://127.0.0.1:1"

    result = CliRunner().invoke(app, ["submit", "x", "--url", url])

    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"No LLM-Server answers at {url}: Connection refused.\n"


def test_ctrl_c_while_waiting_names_the_command_that_gets_the_task(server: Script) -> None:
    """Interrupting does not cancel the task. Exit code 130 is the shell's code for an interrupt."""
    server.replies = [Reply(body=task("Queued"), status=202, retry_after="0.05")]

    with started(server, "submit", "x", stderr=subprocess.PIPE) as process:
        until_asked(server, 3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    get = f"llm-server get t1 --wait --url {server.url}"
    assert said.decode() == f"Task t1 continues on the server. To get its answer: {get}\n"


def test_ctrl_c_before_the_id_is_known_names_the_command_that_finds_the_task(server: Script) -> None:
    """The server still holds the first answer, so the command has no id to print."""
    server.replies = [Reply(body=task("Queued"), status=202, held_s=1)]

    with started(server, "submit", "x", stderr=subprocess.PIPE) as process:
        until_asked(server, 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert f"llm-server list --url {server.url}\n" in said.decode()


def test_a_terminal_shows_progress_and_markdown_without_the_engines_control_codes(server: Script) -> None:
    """Users see a spinner with state and time; the text of an engine cannot control the terminal."""
    steps = [{"status": "Completed"}, {"status": "Waiting"}]
    server.replies = [
        Reply(body=task("[new]"), status=202, retry_after="0.3"),
        Reply(body=task("Queued", waiting_for="main"), retry_after="0.3"),
        Reply(body=task("Planned", plan={"steps": steps}, waiting_for="spare"), retry_after="0.3"),
        Reply(body=task("Completed", result="**bold** [red]x[/red] \x1b]0;evil\x07")),
    ]
    code, shown = on_terminal("submit", "x", "--url", server.url)  # the terminal has 80 columns

    assert code == 0
    assert "Queued · waits for main" in shown
    assert "Planned · 1 of 2 steps · waits for spare" in shown
    assert "[new]" in shown
    assert "0:00:0" in shown
    assert "\x1b[1mbold" in shown
    assert "[red]x[/red] ]0;evil" in shown
    assert "\x1b]0;evil" not in shown
    assert server.asked[0].headers["Prefer"] == "wait=2"


def test_client_commands_do_not_import_the_servers_packages() -> None:
    """A command such as `metrics` must not wait for the import of a web framework or an SDK."""
    heavy = "{'fastapi', 'pydantic', 'boto3', 'botocore', 'uvicorn', 'rich.markdown'}"
    code = f"import sys, llm_server.cli.app; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"
