"""Many workers at once: one winner each, and counters that lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from llm_server.orchestration.domain.engines.state import EngineState, EngineSwitch, SwitchName
from llm_server.orchestration.domain.errors import ApprovalConflict, StateConflict, TaskLost
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import DAY_MS, NEVER_MS, Task
from support.audit import audit
from support.builders import (
    NOW_MS,
    SWEEP_MS,
    a_failure,
    a_lifecycle,
    a_request,
    a_task,
    an_attempt,
    an_output,
    claimed,
    noise,
)
from support.concurrency import at_once


def won(write: Callable[[], Any]) -> bool:
    try:
        write()
    except TaskLost:
        return False
    return True


def test_each_task_is_claimed_by_exactly_one_of_16_workers(store: Store) -> None:
    """Every worker tries every task, half of them in the other order."""
    tasks = [a_task() for _ in range(20)]
    for task in tasks:
        store.add(task, a_request())

    def worker(n: int) -> list[Task]:
        mine = [claimed(task, owner=f"w{n}") for task in tasks][:: 1 if n % 2 else -1]
        before = {task.ref: task for task in tasks}
        return [task for task in mine if won(lambda: store.save(before[task.ref], task))]  # noqa: B023

    winners = [task for claims in at_once(worker, range(16)) for task in claims]

    assert sorted(task.task_id for task in winners) == sorted(task.task_id for task in tasks)
    assert all(store.peek(task.ref) == task for task in winners)
    audit(store, [task.ref for task in tasks])


def test_32_workers_that_finish_at_once_are_all_counted(store: Store) -> None:
    tasks = [a_task(tenant=f"tenant-{n % 2}") for n in range(32)]
    for task in tasks:
        store.add(task, a_request())
        store.save(task, claimed(task))

    def finish(n: int) -> None:
        processing, attempts = claimed(tasks[n]), (an_attempt(cost_microusd=n + 1),)
        if n % 4:
            answer = an_output(attempts=attempts)
            store.keep(processing.ref, answer)
            store.save(processing, processing.completed(answer))
        else:
            failure = a_failure(attempts=attempts)
            store.save(processing, processing.failed(failure), failure)

    at_once(finish, range(32))

    counters = store.overview()[0]
    assert (counters.completed, counters.failed, counters.active) == (24, 8, 0)
    assert sum(store.spent_microusd(f"tenant-{n}", "2025-10-09") for n in (0, 1)) == sum(range(33))
    audit(store, [task.ref for task in tasks])


def test_a_task_added_by_8_twins_is_counted_once(store: Store) -> None:
    task = a_task()

    stored = at_once(lambda _: store.add(task, a_request()), range(8))

    assert stored.count(True) == 1
    assert store.get(task.ref).task == task
    audit(store, [task.ref])


def test_of_the_claim_and_the_finish_of_8_twins_each_counts_once(store: Store) -> None:
    """A worker that repeats a write whose reply it lost, and whose first try is still on its way."""
    task, answer = a_task(), an_output()
    store.add(task, a_request())
    store.keep(task.ref, answer)

    at_once(lambda _: store.save(task, claimed(task)), range(8))
    at_once(lambda _: store.save(claimed(task), claimed(task).completed(answer)), range(8))

    assert store.get(task.ref).result == "Hello."
    audit(store, [task.ref])


def test_no_reader_sees_a_state_without_the_outputs_it_counts(store: Store) -> None:
    """A worker stores step after step while others read; what was read is long, which on DynamoDB takes several pages.

    Who claims by a snapshot that misses a draft has it made, and paid, again.
    """
    task, ended = a_task(mode=Mode.PLAN), threading.Event()
    outputs = [an_output("PLAN", noise(1_300_000)), *(an_output(f"DRAFT#s{n}#0") for n in range(10))]
    store.add(task, a_request())
    store.save(task, claimed(task))

    def work() -> bool:
        before = claimed(task)
        for output in outputs:
            store.save(before, before.progressed(output), output)
            before = before.progressed(output)
        return True

    def read() -> bool:
        seen = [store.get(task.ref)]
        while not ended.is_set():
            seen.append(store.get(task.ref))
        return all(len(each.outputs) >= each.task.receipt.calls for each in seen)

    def act(n: int) -> bool:
        try:
            return read() if n else work()
        finally:
            ended.set()

    assert at_once(act, range(3)) == [True] * 3


def test_each_due_task_is_woken_by_exactly_one_of_8_sweeps(store: Store) -> None:
    for _ in range(10):
        store.add(a_task(), a_request())
    seen = [(due, store.peek(due.ref)) for due in store.due(NOW_MS + SWEEP_MS)]

    moved = at_once(lambda n: [store.postpone(*each, NOW_MS + 2 * SWEEP_MS + n) for each in seen], range(8))

    assert [sum(column) for column in zip(*moved, strict=True)] == [1] * 10


def test_a_sweep_never_spoils_the_save_of_a_worker(store: Store) -> None:
    """They touch the same record: whichever comes first, both go through."""
    tasks = [a_task() for _ in range(10)]
    for task in tasks:
        store.add(task, a_request())
    seen = [(due, store.peek(due.ref)) for due in store.due(NOW_MS + SWEEP_MS)]

    def act(n: int) -> None:
        if n % 2:
            for each in seen:
                store.postpone(*each, NOW_MS + 3 * SWEEP_MS)
        else:
            for task in tasks[n // 2 :: 4]:
                store.save(task, claimed(task))

    at_once(act, range(8))

    assert all(store.peek(task.ref) == claimed(task) for task in tasks)
    audit(store, [task.ref for task in tasks])


def test_of_8_approvals_and_rejections_at_once_one_word_counts(store: Store) -> None:
    """The plan is approved or rejected, never both, and the gauges move once."""
    task, plan = a_task(), an_output("PLAN", "{}")
    store.add(task, a_request(plan_approval=True))
    store.save(task, claimed(task))
    waiting = claimed(task).awaiting_approval(plan, due_ms=NEVER_MS)
    store.save(claimed(task), waiting, plan)
    assert list(store.due(NOW_MS + DAY_MS)) == []

    def say(n: int) -> bool | None:
        try:
            a_lifecycle(store, lambda: NOW_MS + n).approve(task.ref, digest("{}"), approve=n % 2 == 0)
        except ApprovalConflict:
            return None
        return n % 2 == 0

    said = {word for word in at_once(say, range(8)) if word is not None}

    stored = store.peek(task.ref)
    assert said == {stored.status is Status.QUEUED}
    assert stored.rev == waiting.rev + 1
    audit(store, [task.ref])


def test_of_a_cancel_and_a_finish_at_once_one_counts(store: Store) -> None:
    """16 tasks, each finished by its worker while two callers cancel it; what the worker paid is counted once."""
    tasks = [a_task() for _ in range(16)]
    for task in tasks:
        store.add(task, a_request())
        store.save(task, claimed(task))
    callers = a_lifecycle(store, lambda: NOW_MS + 5)

    def act(n: int) -> bool:
        task, output = claimed(tasks[n // 3]), a_failure(attempts=(an_attempt(),))
        if n % 3 == 0:
            return won(lambda: store.save(task, task.failed(output), output))
        try:
            callers.cancel(task.ref)
        except StateConflict:
            return False
        return True

    each = at_once(act, range(48))
    for n, task in enumerate(tasks):
        finished, *cancelled = each[3 * n : 3 * n + 3]
        assert cancelled == [not finished] * 2
        assert store.peek(task.ref).status is (Status.FAILED if finished else Status.CANCELLED)
    audit(store, [task.ref for task in tasks])


def test_of_16_workers_that_swap_an_engine_s_record_one_wins(store: Store) -> None:
    """So one worker in the whole deployment probes it."""
    resting = EngineState(failures=1, reason="The engine is busy.")
    store.save_engine_state("gpt", resting)

    claims = [EngineState(failures=1, probe_until_ms=NOW_MS + n) for n in range(16)]
    swapped = at_once(lambda claim: store.swap_engine_state("gpt", resting, claim), claims)

    assert [store.engines().states["gpt"]] == [claim for claim, won in zip(claims, swapped, strict=True) if won]


def test_of_16_that_switch_at_once_none_undoes_another(store: Store) -> None:
    """Half lock, half switch off: two operators, or one with two terminals."""
    changes: list[dict[SwitchName, bool | None]] = [{"toggle": False} if n % 2 else {"locked": True} for n in range(16)]

    at_once(lambda change: store.switch_engine("gpt", change), changes)

    assert store.engines().switches == {"gpt": EngineSwitch(toggle=False, locked=True)}
