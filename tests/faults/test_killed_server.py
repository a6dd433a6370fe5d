"""The embedded server, killed and started again and again under load: what it acknowledged, it finishes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import urllib3

import fake_engine
from faults.audits import of_processes
from faults.deployment import an_engine, hashed
from faults.ledger import Ledger
from llm_server.storage.sqlite import SqliteStore
from running_server import RunningServer, serving

CALLERS = 4
TASKS_MOST = 40
ROUND_MOST_S = 10
LEASE_S, SWEEP_S = 10, 2
RECOVERY_MOST_S = LEASE_S + 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.attack)])
def test_a_server_that_is_killed_under_load_loses_no_task(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    """Each round kills it at another moment of its work; the tasks of all rounds are final soon after the last."""
    database, acknowledged, answered = tmp_path / "tasks.db", dict[str, str](), Counter[str]()

    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    with fake_engine.fake_engine(answer=answer, latency_s=0.05) as engine:
        config = tmp_path / "engines.toml"
        config.write_text(an_engine(0, engine), encoding="utf-8")
        variables = {
            "LLM_SERVER_CONFIG": str(config),
            "LLM_SERVER_LEASE_S": str(LEASE_S),
            "LLM_SERVER_SWEEP_S": str(SWEEP_S),
            "LLM_SERVER_MAX_ATTEMPTS": "100",
        }
        for number in range(rounds):
            with serving(database, env=variables) as server:
                acknowledged |= loaded_and_killed(server, number)
        began = time.monotonic()
        with serving(database, env=variables) as server:
            while _open(server) and time.monotonic() - began < RECOVERY_MOST_S:
                time.sleep(0.05)
        recovery_s = time.monotonic() - began

    store = SqliteStore(database)
    found = of_processes(store, acknowledged, answered)
    store.close()
    note = f"{len(acknowledged)} tasks acknowledged, all final {recovery_s:.1f} s after the last start was begun"
    ledger.enter(f"server killed {rounds} times", "SQLite", rounds, found, note)
    assert recovery_s < RECOVERY_MOST_S


def _open(server: RunningServer) -> int:
    figures = server.call("GET", "/metrics").json()
    return int(figures["queue_length"]) + int(figures["active_tasks"])


def loaded_and_killed(server: RunningServer, number: int) -> dict[str, str]:
    """Send tasks from several callers until the server dies; what it acknowledged."""
    acknowledged, dead = dict[str, str](), threading.Event()

    def caller(n: int) -> None:
        for k in range(1_000):
            if dead.is_set():
                return
            prompt = f"Say {number} {n} {k}."
            with suppress(urllib3.exceptions.HTTPError, KeyError):
                acknowledged[server.submit(prompt, mode="Chat")["task_id"]] = prompt

    def killer() -> None:
        wanted, end = random.Random(number).randint(1, TASKS_MOST), time.monotonic() + ROUND_MOST_S
        while len(acknowledged) < wanted and time.monotonic() < end:
            time.sleep(0.001)
        dead.set()
        server.kill()

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        work = [pool.submit(killer), *(pool.submit(caller, n) for n in range(CALLERS))]
    for each in work:
        each.result()
    return acknowledged
