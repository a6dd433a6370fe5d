"""The embedded server is killed and restarted again and again under load, and finishes what it acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from faults.audits import of_processes, of_queues, snapshots_of
from faults.deployment import an_engine, hashed
from faults.ledger import Ledger
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from llm_server.wiring import embedded_service, new_id, now_ms
from support import fake_engine
from support.server_process import RunningServer, serving

CALLERS = 4
MAX_TASKS = 40
MAX_ROUND_S = 10
LEASE_S, SWEEP_S = 10, 2
MAX_RECOVERY_S = LEASE_S + 60


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.attack)])
def test_a_server_that_is_killed_under_load_loses_no_task(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    """Each round kills it at another moment; its tasks are final soon after the next start."""
    database, answered = tmp_path / "tasks.db", Counter[str]()
    acknowledged, rounds_of, starts_ms = dict[str, str](), dict[str, int](), list[int]()

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
            starts_ms.append(now_ms())
            with serving(database, env=variables) as server:
                acknowledged |= (said := loaded_and_killed(server, number))
                rounds_of |= dict.fromkeys(said, number)
        starts_ms.append(now_ms())
        with serving(database, env=variables) as server:
            until_idle(server)
        final = woken_again(database, variables)

    found = of_file(database, acknowledged, answered, final)
    took_s = [(final[TaskRef("local", t)].task.finished_ms or 0) - starts_ms[n + 1] for t, n in rounds_of.items()]
    note = f"{len(acknowledged)} tasks, all final {max(took_s) / 1000:.1f} s after the start that followed was begun"
    ledger.enter(f"server killed {rounds} times", "SQLite", rounds, found, note)
    assert max(took_s) < MAX_RECOVERY_S * 1000, "after every round, not only the last"


def until_idle(server: RunningServer) -> None:
    """Wait until no task is open."""
    end = time.monotonic() + MAX_RECOVERY_S
    while any(_open(server)) and time.monotonic() < end:
        time.sleep(0.05)


def _open(server: RunningServer) -> tuple[int, int]:
    figures = server.call("GET", "/metrics").json()
    return figures["queue_length"], figures["active_tasks"]


def woken_again(database: Path, variables: Mapping[str, str]) -> dict[TaskRef, Snapshot]:
    """Let a worker of a new start process a message for every task; return the tasks as they were before."""
    settings = replace(Settings.read(variables), db=database)
    with closing(SqliteStore(Database(database))) as store, embedded_service(settings, own_port=0) as embedded:
        final = snapshots_of(store)
        for ref in final:
            embedded.service.process(ref, owner=new_id())
    return final


def of_file(
    database: Path,
    acknowledged: Mapping[str, str],
    answered: Mapping[str, int],
    final: Mapping[TaskRef, Snapshot],
    *,
    may_fail: Collection[str] = (),
) -> list[str]:
    """Return what is wrong in the file of a server that has ended."""
    with closing(SqliteStore(Database(database))) as store:
        queue = WakeUpQueue(now_ms)
        queue.refill(store.wake_ups(SWEEP_S * 1000))
        found = of_processes(store, acknowledged, answered, final, may_fail=may_fail)
        return [*found, *of_queues(store, queue.depth(), [])]


def loaded_and_killed(server: RunningServer, number: int) -> dict[str, str]:
    """Post tasks from several callers until the server dies; return what it acknowledged."""
    acknowledged, dead = dict[str, str](), threading.Event()

    def caller(n: int) -> None:
        for k in range(1_000):
            if dead.is_set():
                return
            prompt = f"Say {number} {n} {k}."
            with suppress(urllib3.exceptions.HTTPError, KeyError):
                acknowledged[server.submit(prompt, mode="Chat")["task_id"]] = prompt

    def killer() -> None:
        wanted, end = random.Random(number).randint(1, MAX_TASKS), time.monotonic() + MAX_ROUND_S
        while len(acknowledged) < wanted and time.monotonic() < end:
            time.sleep(0.001)
        dead.set()
        server.kill()

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        work = [pool.submit(killer), *(pool.submit(caller, n) for n in range(CALLERS))]
    for each in work:
        each.result()
    return acknowledged
