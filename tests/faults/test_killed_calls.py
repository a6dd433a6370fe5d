"""The embedded server is killed during its engine calls: each call that was made is on its task's receipt (ADR 31)."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from faults.audits import miscounted, snapshots_of
from faults.deployment import an_engine, hashed
from faults.engine import the_plan
from faults.ledger import Ledger
from faults.test_killed_server import on_receipts, until_idle, variables
from faults.test_receipts import PARALLEL
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import fake_engine
from support.server_process import RunningServer, serving

TASKS = 4
"""How many tasks are posted before each kill."""
LATENCY_S = 0.1
MAX_CALLS = {"Chat": 1, "Plan": 5}
"""A server is killed when it has made one of so many calls a task; a plan with its steps takes six."""
MAX_ROUND_S = 20
_PROMPT = re.compile(r"Build \d+ \d+\.")


@dataclass(slots=True)
class Calls:
    """The engine of the test; it counts the calls that it was sent, by the task's prompt."""

    made: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, asked: Any) -> str:
        found = _PROMPT.search(asked["messages"][-1]["content"])
        with self._lock:
            self.made[found[0] if found else "no prompt"] += 1
        wanted = asked.get("response_format", {}).get("json_schema", {}).get("name")
        return the_plan(PARALLEL) if wanted == "plan" else hashed(asked)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(15, marks=pytest.mark.attack)])
@pytest.mark.parametrize("mode", ["Chat", "Plan"])
def test_every_call_of_a_killed_server_is_on_a_receipt(tmp_path: Path, ledger: Ledger, mode: str, kills: int) -> None:
    """A plan has three parallel steps and one after them, so that several calls of a task are lost at once."""
    calls, chance = Calls(), random.Random(kills)
    with fake_engine.fake_engine(answer=calls.answer, latency_s=LATENCY_S) as engine:
        (tmp_path / "engines.toml").write_text(an_engine(0, engine), encoding="utf-8")
        for number in range(kills):
            with serving(tmp_path / "tasks.db", env=variables(tmp_path)) as server:
                wanted = len(engine.seen) + chance.randint(1, MAX_CALLS[mode] * TASKS)
                post(server, number, mode)
                kill_at_call(server, engine, wanted)
        with serving(tmp_path / "tasks.db", env=variables(tmp_path)) as server:
            until_idle(server)
    with closing(SqliteStore(Database(tmp_path / "tasks.db"))) as store:
        found = snapshots_of(store)
        wrong = [*of_calls(found.values(), calls.made), *miscounted(store, found)]

    lost = Counter(a.purpose.partition(" ")[0] for s in found.values() for a in s.attempts if a.is_lost)
    note = f"{calls.made.total()} calls made, {on_receipts(found.values())} on receipts, lost: {dict(lost)}"
    ledger.enter(f"calls of a killed server, {mode}", "SQLite", kills, wrong, note)
    assert len(found) == kills * TASKS
    assert lost["answer" if mode == "Chat" else "step"] > 0, "the kills struck calls"


def post(server: RunningServer, number: int, mode: str) -> None:
    for n in range(TASKS):
        server.submit(f"Build {number} {n}.", mode=mode, profile="Developer")


def kill_at_call(server: RunningServer, engine: fake_engine.FakeEngine, wanted: int) -> None:
    """Kill the server while the engine has its `wanted`-th call."""
    end = time.monotonic() + MAX_ROUND_S
    while len(engine.seen) < wanted and time.monotonic() < end:
        time.sleep(0.001)
    server.kill()


def of_calls(snapshots: Collection[Snapshot], made: Mapping[str, int]) -> Iterator[str]:
    """Yield what is wrong with the calls of the tasks."""
    for snapshot in snapshots:
        task, prompt = snapshot.task, snapshot.request.prompt
        booked = task.receipt.calls + task.receipt.failed_calls
        if task.status is not Status.COMPLETED:
            yield f"{prompt} is {task.status}: {task.error}"
        if made[prompt] > booked:
            yield f"{prompt} took {made[prompt]} calls, and {booked} are on its receipt"
        if booked != len(snapshot.attempts):
            yield f"{prompt} has {booked} calls counted and {len(snapshot.attempts)} shown"
        if task.pending:
            yield f"{prompt} is final and has pending calls"
    if made.keys() != {snapshot.request.prompt for snapshot in snapshots}:
        yield "calls were made for something else"
