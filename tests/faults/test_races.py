"""Parallel deliveries of the same message, and parallel writers of the same counters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.ledger import Ledger
from faults.substrates import UNSEEN, again
from llm_server import wiring
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.store import Store
from support.builders import a_request, a_task, an_attempt, an_output, claimed

TASKS = 200
DELIVERIES = 10
TODAY_MS = wiring.now_ms()
"""The emulator deletes items after their `ttl`, and the record of a tenant's spending has one."""


def at_once(workers: int, act: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(act, range(workers)))


def test_a_message_that_is_delivered_10_times_at_once_costs_one_call(racing_worlds: Worlds, ledger: Ledger) -> None:
    world = racing_worlds()
    for n in range(TASKS):
        world.post(f"Say {n}.", mode="Chat")
    world.substrate.purge()
    refs, together = list(world.acknowledged), threading.Barrier(DELIVERIES)

    def worker(n: int) -> None:
        process = world.process(f"worker {n}")
        for ref in refs:
            together.wait()
            world.work([again(ref)], process)

    at_once(DELIVERIES, worker)
    world.note_final(refs)
    completed = world.store.overview()[0].completed
    world.settle(within_s=0)

    note = f"{len(world.engine.calls)} engine calls, {completed} counted"
    where = world.substrate.name
    ledger.enter(f"{TASKS} messages, each {DELIVERIES} times at once", where, 0, alarms(world), note)
    assert (len(world.engine.calls), completed) == (TASKS, TASKS)


@pytest.mark.parametrize(
    ("writers", "finishes"), [(64, 5), pytest.param(64, 50, marks=pytest.mark.attack)], ids=["64x5", "64x50"]
)
def test_64_writers_that_finish_at_once_are_all_counted(
    racing_worlds: Worlds, writers: int, finishes: int, ledger: Ledger
) -> None:
    world = racing_worlds()
    store, together = world.substrate.store(UNSEEN), threading.Barrier(writers)

    def writer(n: int) -> None:
        together.wait()
        for k in range(finishes):
            _finished(store, f"w{n}-{k}", cost_microusd=n + 1)

    at_once(writers, writer)
    counters = store.overview()[0]
    total = writers * finishes
    cost = finishes * sum(range(writers + 1))

    note = f"{counters.completed} completed, {counters.cost_microusd} micro-USD"
    ledger.enter(f"{writers} writers x {finishes} finishes", world.substrate.name, 0, [], note)
    assert (counters.total, counters.completed, counters.calls) == (total, total, total)
    assert (counters.queued, counters.active, counters.cost_microusd) == (0, 0, cost)
    assert store.spent_microusd("local", day_of(TODAY_MS)) == cost


def _finished(store: Store, task_id: str, *, cost_microusd: int) -> None:
    """Carry a task from its creation to its end; if the store is too busy, try again as a redelivery would."""
    task = a_task(task_id, created_ms=TODAY_MS)
    answer = an_output(attempts=(an_attempt(cost_microusd=cost_microusd),), created_ms=TODAY_MS)
    working = claimed(task)
    for write in (
        lambda: store.add(task, a_request()),
        lambda: store.save(task, working),
        lambda: store.save(working, working.completed(answer), answer),
    ):
        _insisting(write)


def _insisting(write: Callable[[], object]) -> None:
    for _ in range(20):
        try:
            write()
        except StorageUnavailable:
            continue
        return
    raise AssertionError("the store did not take a write in twenty tries")
