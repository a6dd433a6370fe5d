"""The examples work when they are run against a server process as users run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.fake_engine import fake_engine
from support.scripted_server import Reply, scripted_server, task
from support.server_process import RunningServer, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
ENGINES_TOML = (EXAMPLES / "own_engine" / "engines.toml").read_text(encoding="utf-8")
PLANNED = "Design a cache, then implement it, then test it."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serving(tmp_path / "tasks.db") as running:
        yield running


def run(url: str, *command: str | Path, stdin: str = "", key: str = "") -> subprocess.CompletedProcess[str]:
    """Run an example; `key` is the API key."""
    env = {"PATH": os.environ["PATH"], "LLM_SERVER_URL": url, "LLM_SERVER_API_KEY": key}
    return subprocess.run(command, input=stdin, env=env, capture_output=True, text=True, timeout=60, check=False)


def run_python(url: str, name: str, *arguments: str | Path, **options: str) -> subprocess.CompletedProcess[str]:
    return run(url, sys.executable, EXAMPLES / name, *arguments, **options)


def made_key(db: Path, *options: str) -> str:
    command = [sys.executable, "-m", "llm_server", "keys", "create", "--tenant", "acme", "--db", str(db), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@contextmanager
def own_engine() -> Iterator[str]:
    """Run examples/own_engine/engine.py on a free port; yield its configuration with that port."""
    command = [sys.executable, str(EXAMPLES / "own_engine" / "engine.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("listening on ").strip()
            yield ENGINES_TOML.replace("http://127.0.0.1:9000", address)
        finally:
            process.kill()


@contextmanager
def configured(folder: Path, engines: str) -> Iterator[RunningServer]:
    config = folder / "engines.toml"
    config.write_text(engines)
    with serving(folder / "tasks.db", env={"LLM_SERVER_CONFIG": str(config)}) as running:
        yield running


def test_the_readme_lists_exactly_the_examples_that_exist() -> None:
    listed = set(re.findall(r"\]\((.+?)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    present = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))}

    assert listed == present - {"README.md"}


def test_submit_and_wait_prints_the_result(server: RunningServer) -> None:
    done = run(server.url, EXAMPLES / "submit_and_wait.sh", "Write a haiku about \"queues\" and 'leases'.")

    assert (done.returncode, done.stdout[:21]) == (0, "No LLM is configured.")


def test_submit_and_wait_shows_the_servers_error(server: RunningServer, tmp_path: Path) -> None:
    """It also sends an API key if the server requires one."""
    blank = run(server.url, EXAMPLES / "submit_and_wait.sh", " ")
    key = made_key(tmp_path / "tasks.db")
    end = time.monotonic() + 5
    while server.call("GET", "/metrics").status == 200 and time.monotonic() < end:
        time.sleep(0.05)  # the server notices the first key within a second
    unknown = run(server.url, EXAMPLES / "submit_and_wait.sh")
    known = run(server.url, EXAMPLES / "submit_and_wait.sh", key=key)

    assert [done.returncode for done in (blank, unknown, known)] == [1, 1, 0]
    assert "422" in blank.stderr
    assert "401" in unknown.stderr
    assert '"detail"' in unknown.stderr


def test_safe_batch_creates_no_task_twice(server: RunningServer, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is a lease?\n\nWhat is a fence?\n")
    first, second = (run_python(server.url, "safe_batch.py", "monday", prompts) for _ in range(2))
    prompts.write_text("What is a queue?\n")
    changed = run_python(server.url, "safe_batch.py", "monday", prompts)

    assert [line.split()[1] for line in first.stdout.splitlines()] == ["Completed", "Completed"]
    assert second.stdout == first.stdout
    assert server.call("GET", "/metrics").json()["total_requests"] == 2
    assert changed.returncode == 1
    assert "The server refused monday-1: " in changed.stderr


def test_safe_batch_repeats_the_same_key_until_it_gets_an_answer(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is a lease?\n")
    cut, busy = Reply(body=None), Reply(body={"detail": "Busy."}, status=503, retry_after="0")
    with scripted_server() as scripted:
        scripted.replies = [cut, busy, Reply(body=task("Queued"), status=202), Reply(body=task("Completed"))]
        done = run_python(scripted.url, "safe_batch.py", "monday", prompts)
    submitted = [asked.headers["Idempotency-Key"] for asked in scripted.asked if asked.line.startswith("POST")]

    assert done.stdout.startswith("t1 Completed")
    assert submitted == ['"monday-1"'] * 3


def test_safe_batch_does_not_wait_until_the_next_day(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is a lease?\n")
    with scripted_server() as scripted:
        scripted.replies = [Reply(body={"detail": "Come again at midnight."}, status=429, retry_after="40000")]
        done = run_python(scripted.url, "safe_batch.py", "monday", prompts)

    assert (done.returncode, done.stderr) == (1, "The server refused monday-1: Come again at midnight.\n")


def test_approve_plan_shows_the_plan_and_sends_the_decision(server: RunningServer) -> None:
    approved, rejected = (run_python(server.url, "approve_plan.py", PLANNED, stdin=said) for said in ("y\n", "\n"))

    for done in (approved, rejected):
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"Goal: {PLANNED}")
        assert len(re.findall(r"^  s\d  \S+: ", done.stdout, re.MULTILINE)) == 3
    assert "\nCompleted\n" in approved.stdout
    assert rejected.stdout.endswith("\nCancelled\n\n")


@pytest.mark.parametrize(("name", "arguments"), [("approve_plan.py", "PROMPT"), ("safe_batch.py", "BATCH FILE")])
def test_an_example_without_its_arguments_prints_its_usage(name: str, arguments: str) -> None:
    done = run_python("http://127.0.0.1:1", name)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"usage: python examples/{name} {arguments}\n"


def test_own_engine_answers(tmp_path: Path) -> None:
    with own_engine() as engines, configured(tmp_path, engines) as server:
        answer = server.submit("What is a lease?", wait_s=20)

    assert answer["result"] == "You asked: What is a lease?"


def test_budget_shows_tasks_that_fail_because_of_their_limits(tmp_path: Path) -> None:
    with own_engine() as engines, configured(tmp_path, engines) as server:
        key = made_key(tmp_path / "tasks.db", "--usd-per-day", "0.01")
        done = run_python(server.url, "budget.py", key=key)

    assert re.match(r"max_cost_usd: Failed, 0 micro-USD: .*max_cost_usd", done.stdout)
    assert re.search(r"^task 1: Completed, [1-9]\d* micro-USD$", done.stdout, re.MULTILINE)
    assert re.search(r"^task \d+: Failed, \d+ micro-USD\nusd_per_day: .*usd_per_day", done.stdout, re.MULTILINE)
    assert re.search(r"^Spent today: [1-9]\d* micro-USD\.$", done.stdout, re.MULTILINE)


def test_budget_shows_the_refusal_when_the_day_is_spent(tmp_path: Path) -> None:
    """The first task costs exactly what the key may spend: 4,096 output tokens at 1 USD for a million."""
    with fake_engine(text="2, 3, 5.", tokens_out=4096) as engine:
        engines = ENGINES_TOML.replace("http://127.0.0.1:9000/v1", engine.base_url)
        engines = engines.replace("{ input = 3.0, output = 15.0 }", "{ input = 0.0, output = 1.0 }")
        with configured(tmp_path, engines) as server:
            key = made_key(tmp_path / "tasks.db", "--usd-per-day", "0.004096")
            done = run_python(server.url, "budget.py", key=key)

    assert re.search(r"^task 1: Completed, 4096 micro-USD$", done.stdout, re.MULTILINE)
    assert re.search(r"^usd_per_day: 429, try again in \d+ s: .*usd_per_day", done.stdout, re.MULTILINE)


def test_an_engine_that_reports_too_many_tokens_does_not_overspend_the_day(tmp_path: Path) -> None:
    """What it reports beyond the reserved tokens cannot be true, so it is not charged."""
    with fake_engine(text="2, 3, 5.", tokens_out=1_000) as engine:
        engines = ENGINES_TOML.replace("http://127.0.0.1:9000/v1", engine.base_url)
        with configured(tmp_path, engines) as server:
            key = made_key(tmp_path / "tasks.db", "--usd-per-day", "0.01")
            done = run_python(server.url, "budget.py", key=key)

    spent = re.search(r"^Spent today: (\d+) micro-USD\.$", done.stdout, re.MULTILINE)
    assert re.search(r"^usd_per_day: .*usd_per_day", done.stdout, re.MULTILINE)
    assert spent
    assert 0 < int(spent[1]) <= 10_000
