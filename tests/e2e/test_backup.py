"""`llm-server backup`, `restore` and `tenants delete` on a server that carries out tasks meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import pytest

from support.fake_engine import a_config, fake_engine
from support.server_process import RunningServer, serving

CALLERS = 8
FINAL = ("Completed", "Failed", "Cancelled")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_server", *map(str, arguments)]
    variables = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables)


@contextmanager
def under_load(server: RunningServer) -> Iterator[list[str]]:
    """Submit tasks from several callers during the block; yield the ids that the server has acknowledged so far."""
    acknowledged, stopping = list[str](), threading.Event()

    def submit() -> None:
        while not stopping.is_set():
            acknowledged.append(server.submit("Why is the sky blue?", mode="Chat")["task_id"])

    callers = [threading.Thread(target=submit) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield acknowledged
    finally:
        stopping.set()
        for caller in callers:
            caller.join()


def tasks_in(copy: Path) -> set[str]:
    with closing(sqlite3.connect(copy)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        return {task_id for (task_id,) in db.execute("SELECT task_id FROM tasks")} if "tasks" in tables else set()


def test_a_backup_under_load_restores_to_a_server_that_finishes_its_tasks(tmp_path: Path) -> None:
    """Nothing that was acknowledged before the backup began is lost. A plain copy of the file lacks tasks.

    A call that was under way is on its task's receipt as lost, and the task is carried out again.
    """
    db, file, restored = tmp_path / "tasks.db", tmp_path / "backup.db", tmp_path / "new" / "tasks.db"
    with fake_engine(latency_s=0.3) as engine:
        environment = a_config(tmp_path, only=engine)
        with serving(db, env=environment) as server:
            with under_load(server) as acknowledged:
                while len(acknowledged) < 300:
                    time.sleep(0.01)
                before = set(acknowledged)
                shutil.copyfile(db, tmp_path / "copy.db")
                made = run("backup", file, "--db", db)
                during = len(acknowledged) - len(before)
            server.kill()
        found = run("restore", file, "--db", restored)
        with serving(restored, env=environment) as server:
            tasks = [server.finished(task_id) for task_id in sorted(tasks_in(file))]
            metrics = server.call("GET", "/metrics").json()

    assert (made.returncode, made.stderr, found.returncode, found.stderr) == (0, "", 0, "")
    assert during > 0
    assert before <= {task["task_id"] for task in tasks}
    assert {task["status"] for task in tasks} == {"Completed"}
    assert metrics["total_requests"] == len(tasks)
    failed = [attempt for task in tasks for attempt in task["attempts"] if attempt["error"]]
    assert failed
    assert {attempt["failure"] for attempt in failed} == {"lost"}
    assert before - tasks_in(tmp_path / "copy.db")


@contextmanager
def watched(server: RunningServer) -> Iterator[None]:
    """Ask for the metrics all the time during the block, so that the server keeps them in memory."""
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.wait(0.01):
            assert server.call("GET", "/metrics").json()["total_requests"] <= 100

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            stopping.set()
            asking.result()


@pytest.mark.parametrize("while_asked", [nullcontext, watched], ids=["alone", "beside callers of the metrics"])
def test_a_tenant_is_deleted_while_a_server_carries_out_its_tasks(
    tmp_path: Path, while_asked: Callable[[RunningServer], AbstractContextManager[None]]
) -> None:
    """The command waits for the workers. The server goes on; its figures keep what the tasks have cost.

    The command is a process of its own that changes the counters in the file. Figures in memory must follow.
    """
    db = tmp_path / "tasks.db"
    with fake_engine(latency_s=1.0) as engine, serving(db, env=a_config(tmp_path, only=engine)) as server:
        with while_asked(server):
            for _ in range(100):
                server.submit("Why is the sky blue?", mode="Chat")
            deleted = run("tenants", "delete", "local", "--yes", "--db", db)
            left = server.call("GET", "/tasks").json()["tasks"]
            totals = server.call("GET", "/metrics").json()
        answered = server.submit("Why is the sky blue?", wait_s=10)

    assert (deleted.returncode, deleted.stdout.split(",")[0]) == (0, "Deleted for tenant local: 100 tasks")
    assert left == []
    assert totals["total_requests"] == 100
    assert totals["queue_length"] == totals["active_tasks"] == 0
    assert answered["status"] == "Completed"
