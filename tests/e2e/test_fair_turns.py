"""A tenant's task does not wait behind the backlog of another tenant: a real server, two API keys, one engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine, a_config, fake_engine
from support.server_process import RunningServer, serving

BACKLOG = 60
WORKERS = 8
FEW = 3
"""More than the calls that can begin before B's: the one that the engine has, and one while B's is on its way."""


class Held:
    """An engine's answers, which wait until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, body: Any) -> str:
        assert self.go.wait(60)
        return "Hello."


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.go.set()


def key(db: Path, tenant: str) -> dict[str, str]:
    command = [sys.executable, "-m", "llm_server", "keys", "create", "--tenant", tenant, "--scope", "tasks"]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(db.parent), "LLM_SERVER_DB": str(db)}
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=variables)
    return {"Authorization": f"Bearer {made.stdout.strip()}"}


def one_place(folder: Path, engine: FakeEngine) -> dict[str, str]:
    """Return the environment of a server whose engine makes one call at a time."""
    env = a_config(folder, fake=engine)
    with Path(env["LLM_SERVER_CONFIG"]).open("a") as file:
        file.write("max_concurrency = 1\n")
    return env


def posted(server: RunningServer, headers: dict[str, str], prompt: str, **fields: str) -> str:
    answer = server.call("POST", "/tasks", {"prompt": prompt, "mode": "Chat", **fields}, headers)
    assert answer.status == 202, answer.data
    task_id: str = answer.json()["task_id"]
    return task_id


def wait_for(server: RunningServer, headers: dict[str, str], task_id: str, status: str) -> None:
    while (now := server.call("GET", f"/tasks/{task_id}", headers=headers).json()["status"]) != status:
        assert now in ("Queued", "Processing"), now
        threading.Event().wait(0.02)


def call_of(engine: FakeEngine, prompt: str) -> int:
    """Return how many calls began before the one with a prompt."""
    return next(n for n, seen in enumerate(engine.seen) if prompt in str(seen.body))


def test_a_task_does_not_wait_behind_another_tenants_backlog(tmp_path: Path, held: Held) -> None:
    """All tasks are accepted before the engine answers its first call."""
    db = tmp_path / "tasks.db"
    a, b = key(db, "a"), key(db, "b")
    with fake_engine(answer=held) as engine, serving(db, env=one_place(tmp_path, engine)) as server:
        for n in range(BACKLOG):
            posted(server, a, f"Task {n} of tenant a.")
        now = posted(server, b, "For a person who waits.")
        batch = posted(server, b, "Not urgent.", priority="batch")
        shown = server.call("GET", f"/tasks/{batch}", headers=b).json()["priority"]
        wait_for(server, b, now, "Processing")
        held.go.set()
        wait_for(server, b, now, "Completed")
        wait_for(server, b, batch, "Completed")
        calls = [call_of(engine, prompt) for prompt in ("For a person", "Not urgent")]

    assert shown == "batch"
    assert calls[0] < FEW
    assert calls[0] < calls[1] < BACKLOG / 2


def test_a_backlog_holds_up_no_other_tenant_after_a_restart(tmp_path: Path, held: Held) -> None:
    """The server is killed. Its messages are made again from the stored tasks, those that had a worker first."""
    db = tmp_path / "tasks.db"
    a, b = key(db, "a"), key(db, "b")
    with fake_engine(answer=held) as engine:
        env = one_place(tmp_path, engine)
        with serving(db, env=env) as server:
            for n in range(BACKLOG):
                posted(server, a, f"Task {n} of tenant a.")
            now = posted(server, b, "For a person who waits.")
            server.kill()
        held.go.set()
        engine.seen.clear()
        with serving(db, env=env) as server:
            wait_for(server, b, now, "Completed")
            call = call_of(engine, "For a person")

    assert call < WORKERS + FEW
