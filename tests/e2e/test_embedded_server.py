"""The embedded server as users run it: one process, one file, killed without warning."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from llm_server import __version__
from support.fake_engine import fake_engine
from support.server_process import RunningServer, refused, serving

FOUR = {"task_id", "status", "result", "error"}
NINE = {
    "server_status",
    "llm_status",
    "tokens_per_second",
    "average_response_time",
    "total_requests",
    "active_tasks",
    "queue_length",
    "success_rate",
    "api_costs",
}


def a_config(directory: Path, base_url: str, **more: object) -> dict[str, str]:
    """Configure one engine; return the environment that names the file."""
    lines = ["[engines.fake]", 'kind = "openai"', 'source = "local"', 'model = "fake-1"', f'base_url = "{base_url}"']
    lines += [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    path = directory / "engines.toml"
    path.write_text("\n".join(lines))
    return {"LLM_SERVER_CONFIG": str(path)}


def test_health_says_that_the_file_was_removed_and_is_back(tmp_path: Path) -> None:
    away = tmp_path / "away.db"
    with serving(tmp_path / "tasks.db") as server:
        (tmp_path / "tasks.db").rename(away)
        without = server.call("GET", "/health")
        away.rename(tmp_path / "tasks.db")

        assert (without.status, without.json()["code"]) == (500, "storage_missing")
        assert server.call("GET", "/health").status == 200


def test_without_engines_a_prompt_is_answered_and_counted(tmp_path: Path) -> None:
    """The answer says that no LLM is configured, and the metrics count the task."""
    with serving(tmp_path / "tasks.db") as server:
        answer = server.submit("Write a haiku about queues.", wait_s=20)
        metrics = server.call("GET", "/metrics").json()
        task = server.call("GET", f"/tasks/{answer['task_id']}").json()

    assert set(answer) == FOUR
    assert answer["status"] == "Completed"
    assert "No LLM is configured" in answer["result"]
    assert set(metrics) == NINE
    assert (metrics["total_requests"], metrics["success_rate"], metrics["api_costs"]) == (1, 100.0, 0.0)
    assert metrics["llm_status"] == {"embedded": "online"}
    assert task["attempts"][0]["engine"] == "embedded"
    assert task["receipt"]["cost_microusd"] == 0


def test_every_mode_works_without_an_engine(tmp_path: Path) -> None:
    prompt = "Design a cache, then implement it, then write tests and document it."
    with serving(tmp_path / "tasks.db") as server:
        tasks = {mode: server.submit(prompt, mode=mode, wait_s=20) for mode in ("Chat", "Agent", "Plan")}
        plan = server.call("GET", f"/tasks/{tasks['Plan']['task_id']}").json()

    assert {mode: task["status"] for mode, task in tasks.items()} == dict.fromkeys(
        ("Chat", "Agent", "Plan"), "Completed"
    )
    assert len(plan["plan"]["steps"]) >= 2
    assert {step["status"] for step in plan["plan"]["steps"]} == {"Completed"}


def test_tasks_of_a_killed_server_are_completed_after_the_next_start(tmp_path: Path) -> None:
    """SIGKILL with tasks queued and in progress: each accepted task completes soon, without waiting for its lease."""
    with fake_engine(latency_s=0.5) as engine:
        env = a_config(tmp_path, engine.base_url)
        with serving(tmp_path / "tasks.db", "--workers", "2", env=env) as server:
            ids = [server.submit(f"Say {n}.")["task_id"] for n in range(10)]
            server.kill()
        with serving(tmp_path / "tasks.db", "--workers", "4", env=env) as server:
            tasks = [server.finished(task_id) for task_id in ids]
            metrics = server.call("GET", "/metrics").json()

    assert [task["status"] for task in tasks] == ["Completed"] * 10
    assert (metrics["total_requests"], metrics["queue_length"], metrics["active_tasks"]) == (10, 0, 0)
    assert metrics["success_rate"] == 100.0


def test_a_task_waits_until_its_engine_is_switched_on_again(tmp_path: Path) -> None:
    """The other engine is dead, so the task retries every few seconds. The switch survives a restart."""
    dead = '[engines.dead]\nkind = "openai"\nsource = "local"\nmodel = "x"\nbase_url = "http://127.0.0.1:9/v1"'
    with fake_engine() as engine:
        env = a_config(tmp_path, engine.base_url)
        with Path(env["LLM_SERVER_CONFIG"]).open("a") as config:
            config.write(f"\n{dead}\n")
        with serving(tmp_path / "tasks.db", env=env) as server:
            switched = server.call("PATCH", "/engines/fake", {"toggle": False})
            task_id = server.submit("Say hello.")["task_id"]
            wait_until(lambda: server.call("GET", f"/tasks/{task_id}").json()["waiting_for"] is not None)
            waiting = server.call("GET", f"/tasks/{task_id}").json()
            server.stop()
        asked_while_off = len(engine.seen)
        with serving(tmp_path / "tasks.db", env=env) as server:
            status = server.call("GET", "/metrics").json()["llm_status"]
            refused = server.call("POST", "/tasks", {"prompt": "Say hello.", "engine": "fake"})
            server.call("PATCH", "/engines/fake", {"toggle": True})
            task = server.finished(task_id)

    assert (switched.status, switched.json()["status"]) == (200, "disabled")
    assert (waiting["status"], waiting["waiting_for"], asked_while_off) == ("Queued", "dead", 0)
    assert status == {"fake": "disabled", "dead": "offline"}
    assert refused.status == 422
    assert (task["status"], task["attempts"][-1]["engine"]) == ("Completed", "fake")


@pytest.mark.parametrize(("days", "status"), [("1", 404), ("0", 200)])
def test_a_final_task_is_kept_for_keep_days(tmp_path: Path, days: str, status: int) -> None:
    """The file says that the task ended two days ago; 0 days means for ever."""
    two_days_ms = 2 * 24 * 3600 * 1000
    with serving(tmp_path / "tasks.db") as server:
        task_id = server.submit("Say hello.", wait_s=20)["task_id"]
        server.stop()
    earlier = "json_set(body, '$.finished_ms', json_extract(body, '$.finished_ms') - ?)"
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db, db:
        db.execute(f"UPDATE tasks SET body = {earlier}", (two_days_ms,))
    with serving(tmp_path / "tasks.db", env={"LLM_SERVER_KEEP_DAYS": days}) as server:
        found = server.call("GET", f"/tasks/{task_id}").status

    assert found == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopping_server_lets_running_tasks_complete(tmp_path: Path, number: signal.Signals) -> None:
    with fake_engine(latency_s=1.0) as engine:
        with serving(tmp_path / "tasks.db", env=a_config(tmp_path, engine.base_url)) as server:
            task_id = server.submit("Say hello.")["task_id"]
            wait_until(lambda: len(engine.seen) == 1)
            code = server.stop(number)
        with serving(tmp_path / "tasks.db", env=a_config(tmp_path, engine.base_url)) as server:
            task = server.finished(task_id)

    assert code == 0
    assert (task["status"], len(task["attempts"]), len(engine.seen)) == ("Completed", 1, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopping_server_lets_callers_that_wait_go(tmp_path: Path, number: signal.Signals) -> None:
    """They learn the id of their task, which is stored. The engine answers after the server's grace for requests."""
    with (
        fake_engine(latency_s=5.0) as engine,
        ThreadPoolExecutor(1) as pool,
        serving(tmp_path / "tasks.db", env=a_config(tmp_path, engine.base_url)) as server,
    ):
        waiting = pool.submit(server.call, "POST", "/tasks", {"prompt": "Hello."}, {"Prefer": "wait=20"})
        wait_until(lambda: len(engine.seen) == 1)
        server.process.send_signal(number)

        assert waiting.result(20).status == 202


def test_a_start_on_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = refused(tmp_path / "tasks.db", "--port", port)

    assert code == 1
    assert f"Port {port} is in use" in said


def test_a_second_server_on_a_database_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db"):
        code, said = refused(tmp_path / "tasks.db")

    assert code == 1
    assert "in use by another server" in said


def test_without_keys_the_server_binds_to_loopback_only(tmp_path: Path) -> None:
    code, said = refused(tmp_path / "tasks.db", "--host", "0.0.0.0")

    assert code == 1
    assert "listens on loopback only" in said


def test_an_engine_without_its_key_is_named_at_the_start(tmp_path: Path) -> None:
    env = a_config(tmp_path, "http://127.0.0.1:9/v1", api_key="env:MISSING_KEY")
    with serving(tmp_path / "tasks.db", env=env) as server:
        metrics = server.call("GET", "/metrics").json()

    assert "fake has no key (env:MISSING_KEY is not set)" in server.printed
    assert metrics["llm_status"] == {"fake": "offline"}


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"LLM_SERVER_WORKERS": "many"}, "LLM_SERVER_WORKERS"),
        ({"LLM_SERVER_TABLE": "t"}, "LLM_SERVER_QUEUE_URL"),
        ({"LLM_SERVER_CONFIG": "missing.toml"}, "LLM_SERVER_CONFIG"),
    ],
)
def test_a_wrong_setting_stops_the_start_and_is_named(tmp_path: Path, env: dict[str, str], named: str) -> None:
    code, said = refused(tmp_path / "tasks.db", env=env)

    assert code == 1
    assert named in said
    assert "Traceback" not in said


def test_the_command_line_works_with_a_real_server(tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db") as server:
        submitted = run_cli(server, "submit", "Write a haiku about queues.", "--json")
        task_id = json.loads(submitted.stdout)["task_id"]
        read = run_cli(server, "get", task_id)
        metrics = run_cli(server, "metrics", "--json")
        refused = run_cli(server, "submit", "Hi", "--role", "Missing-Agent")

    assert (submitted.returncode, read.returncode, metrics.returncode, refused.returncode) == (0, 0, 0, 2)
    assert "No LLM is configured" in read.stdout
    assert json.loads(metrics.stdout)["total_requests"] == 1
    assert "Unknown role 'Missing-Agent'" in refused.stderr


def test_list_engines_route_and_version_work_on_the_command_line(tmp_path: Path) -> None:
    """The output in a pipe, with one engine configured beside the embedded one."""
    with fake_engine() as engine:
        env = a_config(tmp_path, engine.base_url)
        with serving(tmp_path / "tasks.db", env=env) as server:
            ids = [server.submit("Say hello.", wait_s=20, metadata={"n": str(n % 2)})["task_id"] for n in range(3)]
            listed = run_cli(server, "list", "--status", "Completed", "--status", "Failed", "--metadata", "n=0")
            columns = run_cli(server, "list", "--text", "--limit", "1")
            missing = run_cli(server, "list", "--engine", "fake", "--created-to", "2020-01-01")
            refused = run_cli(server, "list", "--status", "Done")
            engines = run_cli(server, "engines")
            asked = run_cli(server, "submit", "Say hello.", "--dry-run")
    routed = command_line("route", "Say hello.", env=env)
    version = command_line("--version")

    assert [task["task_id"] for task in json.loads(listed.stdout)["tasks"]] == [ids[2], ids[0]]
    assert [line.split()[:2] for line in columns.stdout.splitlines()] == [["id", "status"], [ids[2], "Completed"]]
    assert json.loads(missing.stdout) == {"tasks": []}
    assert (refused.returncode, "'Done'" in refused.stderr) == (2, True)
    assert {name: each["status"] for name, each in json.loads(engines.stdout)["engines"].items()} == {"fake": "online"}
    decided, quoted = json.loads(routed.stdout), json.loads(asked.stdout)
    assert (quoted.pop("quote")["sample"], decided.pop("quote", {}).get("sample", 0)) == (
        3,
        0,
    )  # the server's own tasks
    assert decided == quoted
    assert decided["engine"] == "fake"
    assert version.stdout == f"llm-server {__version__}\n"


def wait_until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def run_cli(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command_line(*arguments, "--url", server.url)


def command_line(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_server", *arguments]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
