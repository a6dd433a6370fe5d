"""The embedded server is killed and restarted again and again under load, and finishes what it acknowledged."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from faults.audits import of_processes, of_queues, snapshots_of
from faults.deployment import an_engine, hashed
from faults.ledger import Ledger
from faults.struck_server import ORDERS
from llm_server.embedded.assembly import embedded_service
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from llm_server.wiring import new_id, now_ms
from support import fake_engine
from support.server_process import RunningServer, serving

CALLERS = 16
MAX_TASKS = 80
MAX_ROUND_S = 20
LEASE_S, SWEEP_S = 10, 2
MAX_RECOVERY_S = LEASE_S + 60
MOMENTS = ("before", "after", "next")
"""Before a commit, between it and its acknowledgement, and before the transaction that follows."""
QUICK_ROUNDS = [(moment, commit) for commit in (1, 2, 20) for moment in MOMENTS]
ROUNDS = [(moment, commit) for commit in range(1, 41) for moment in MOMENTS]


@dataclass(slots=True)
class Said:
    """What a server has acknowledged, and the posts with an Idempotency-Key, by key, whose answer was lost."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    keyed: int = 0

    def post(self, server: RunningServer, prompt: str, *, key: str = "", wait_s: int = 0) -> None:
        """Post a task. If the server dies, a later server gets a post with a key again."""
        headers = {"Idempotency-Key": key} if key else {}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        if key:
            self.unanswered[key] = prompt
        with suppress(urllib3.exceptions.HTTPError):
            answer = server.call("POST", "/tasks", {"prompt": prompt, "mode": "Chat"}, headers)
            if answer.status in (200, 202):
                self.acknowledged[answer.json()["task_id"]] = prompt
                self.unanswered.pop(key, None)

    def repeat(self, server: RunningServer) -> None:
        """Post again what was not answered."""
        for key, prompt in list(self.unanswered.items()):
            self.keyed += 1
            self.post(server, prompt, key=key)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.attack)])
def test_a_server_that_is_killed_under_load_loses_no_task(tmp_path: Path, ledger: Ledger, rounds: int) -> None:
    """Each round kills it at another moment; its tasks are final soon after the next start."""

    @contextmanager
    def starts(_: int) -> Iterator[RunningServer]:
        with serving(tmp_path / "tasks.db", env=variables(tmp_path)) as server:
            yield server

    survived(tmp_path, ledger, f"server killed {rounds} times", rounds, starts, killed_at_random)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [QUICK_ROUNDS, pytest.param(ROUNDS, marks=pytest.mark.attack)], ids=len)
def test_a_server_that_is_killed_around_a_commit_loses_no_task(
    tmp_path: Path, ledger: Ledger, rounds: Sequence[tuple[str, int]]
) -> None:
    """It kills itself before its n-th commit, before it acknowledges the commands, or before it goes on."""
    orders = tmp_path / "orders"

    @contextmanager
    def starts(_: int) -> Iterator[RunningServer]:
        orders.write_text("", encoding="utf-8")
        database, program = tmp_path / "tasks.db", "faults.struck_server"
        with serving(database, env=variables(tmp_path) | {ORDERS: str(orders)}, program=program) as server:
            yield server

    def killed_by_itself(server: RunningServer, number: int, _: Said) -> None:
        moment, commit = rounds[number]
        orders.write_text(f"{moment} {commit}", encoding="utf-8")
        assert server.process.wait(MAX_ROUND_S) == -signal.SIGKILL, f"commit {commit} was not reached"

    survived(tmp_path, ledger, "server killed around a commit", len(rounds), starts, killed_by_itself)


def variables(folder: Path) -> dict[str, str]:
    return {
        "LLM_SERVER_CONFIG": str(folder / "engines.toml"),
        "LLM_SERVER_LEASE_S": str(LEASE_S),
        "LLM_SERVER_SWEEP_S": str(SWEEP_S),
        "LLM_SERVER_MAX_ATTEMPTS": "100",
    }


def survived(
    folder: Path,
    ledger: Ledger,
    attack: str,
    rounds: int,
    starts: Callable[[int], AbstractContextManager[RunningServer]],
    killed: Callable[[RunningServer, int, Said], None],
) -> None:
    """Start a server for each round, with load until it is killed; then check what it has acknowledged."""
    database, answered, said = folder / "tasks.db", Counter[str](), Said()
    rounds_of, starts_ms = dict[str, int](), list[int]()

    def answer(asked: Any) -> str:
        answered[asked["messages"][-1]["content"]] += 1
        return hashed(asked)

    with fake_engine.fake_engine(answer=answer, latency_s=0.05) as engine:
        (folder / "engines.toml").write_text(an_engine(0, engine), encoding="utf-8")
        for number in range(rounds + 1):
            starts_ms.append(now_ms())
            with starts(number) as server:
                said.repeat(server)
                if number < rounds:
                    loaded(server, number, said, killed)
                else:
                    until_idle(server)
            rounds_of |= dict.fromkeys(said.acknowledged.keys() - rounds_of.keys(), number)
        final = woken_again(database, variables(folder))

    found = of_file(database, said.acknowledged, answered, final)
    found += done_twice(database)
    found += [f"{prompt} was never acknowledged" for prompt in said.unanswered.values()]
    took_s = [
        (final[TaskRef("local", t)].task.finished_ms or 0) - starts_ms[min(n + 1, rounds)] for t, n in rounds_of.items()
    ]
    note = (
        f"{len(said.acknowledged)} tasks, {said.keyed} posts repeated, {answered.total()} calls made, "
        f"{on_receipts(final.values())} on receipts, all final {max(took_s) / 1000:.1f} s after the start that "
        f"followed was begun"
    )
    ledger.enter(attack, "SQLite", rounds, found, note)
    assert max(took_s) < MAX_RECOVERY_S * 1000, "after every round, not only the last"
    assert len(said.acknowledged) > rounds


def on_receipts(snapshots: Iterable[Snapshot]) -> int:
    """Return how many calls are on receipts, answered or not."""
    return sum(snapshot.task.receipt.calls + snapshot.task.receipt.failed_calls for snapshot in snapshots)


def done_twice(database: Path) -> Iterator[str]:
    """Yield prompts that became two tasks, tasks with two answers, and Idempotency-Keys without their task."""
    with closing(SqliteStore(Database(database))) as store:
        found = snapshots_of(store)
    prompts = Counter(snapshot.request.prompt for snapshot in found.values())
    yield from (f"{prompt} became {number} tasks" for prompt, number in prompts.items() if number > 1)
    for ref, snapshot in found.items():
        if snapshot.task.receipt.calls != 1:
            yield f"{ref} has {snapshot.task.receipt.calls} answers on its receipt"
    with closing(sqlite3.connect(database)) as db:
        bound = "SELECT count(*) FROM bindings WHERE json_extract(body, '$.task_id') NOT IN (SELECT task_id FROM tasks)"
        if alone := db.execute(bound).fetchone()[0]:
            yield f"{alone} Idempotency-Keys are bound to tasks that are not stored"


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


def loaded(server: RunningServer, number: int, said: Said, killed: Callable[[RunningServer, int, Said], None]) -> None:
    """Post tasks from several callers until the server is dead. Half of them wait, half of them send a key."""
    dead = threading.Event()

    def caller(n: int) -> None:
        for k in range(1_000):
            if dead.is_set():
                return
            key = f"key-{number}-{n}-{k}" if n % 2 else ""
            said.post(server, f"Say {number} {n} {k}.", key=key, wait_s=5 if n % 4 > 1 else 0)

    def killer() -> None:
        try:
            killed(server, number, said)
        finally:
            dead.set()
            server.kill()

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        work = [pool.submit(killer), *(pool.submit(caller, n) for n in range(CALLERS))]
    for each in work:
        each.result()


def killed_at_random(server: RunningServer, number: int, said: Said) -> None:
    """Send SIGKILL when a random number of tasks has been acknowledged."""
    wanted = len(said.acknowledged) + random.Random(number).randint(1, MAX_TASKS)
    end = time.monotonic() + MAX_ROUND_S
    while len(said.acknowledged) < wanted and time.monotonic() < end:
        time.sleep(0.001)
    server.kill()
