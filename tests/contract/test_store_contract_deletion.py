"""What every store promises about the end of what it keeps: deleted at a word, expired after a time."""

from __future__ import annotations

from typing import Protocol

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import DAY_MS, Task
from support.builders import NOW_MS, a_failure, a_request, a_task, an_attempt, an_output, by_key, claimed
from support.concurrency import at_once
from support.scripted_engine import Clock


class Keeping(Protocol):
    """A store that keeps what has ended for 30 days, and its clock."""

    @property
    def store(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...


def ended(store: Store, length: int = 10) -> Task:
    """A Completed plan with a long prompt, a step and an answer."""
    task = a_task(mode=Mode.PLAN)
    store.add(task, a_request("p" * length))
    processing = claimed(task)
    store.save(task, processing)
    plan, answer = an_output("PLAN", "{}"), an_output(text="a" * length)
    planned = processing.progressed(plan)
    store.save(processing, planned, plan)
    store.keep(task.ref, answer)
    completed = planned.completed(answer)
    store.save(planned, completed)
    return completed


def is_gone(store: Store, task: Task) -> bool:
    for read in (store.get, store.peek):
        with pytest.raises(TaskNotFound):
            read(task.ref)
    return store.page("local", size=9).tasks == []


@pytest.mark.parametrize("length", [10, 900_000])
def test_a_deleted_task_is_gone_and_was_counted(store: Store, length: int) -> None:
    """With long texts, too; what it cost was spent all the same."""
    task = ended(store, length)
    counters = store.overview()[0]

    store.delete(task)

    assert is_gone(store, task)
    assert store.overview()[0] == counters
    assert store.spent_microusd("local", "2025-10-09") == 600
    assert list(store.due(NOW_MS + 10**12)) == []


def test_only_the_state_that_was_seen_is_deleted(store: Store) -> None:
    """The task may have been retried since it was read. A deleted task cannot be deleted again."""
    task = ended(store)

    with pytest.raises(TaskLost):
        store.delete(replace(task, rev=task.rev - 1))
    assert store.get(task.ref).task == task
    store.delete(task)
    with pytest.raises(TaskLost):
        store.delete(task)


def test_a_deleted_task_does_not_come_back(store: Store) -> None:
    """By a call that was on its way, or a worker that comes too late."""
    task = ended(store)
    store.delete(task)

    assert not store.add(a_task(task.task_id), a_request())
    store.keep(task.ref, an_output("RES#9"))
    with pytest.raises(TaskLost):
        store.save(task, replace(task, rev=task.rev + 1))
    store.purge(task.ref)

    assert is_gone(store, task)
    assert store.overview()[0].total == 1


def test_a_task_that_is_there_is_not_purged(store: Store) -> None:
    task = ended(store)
    before = store.get(task.ref)

    store.purge(task.ref)
    store.purge(a_task().ref)

    assert store.get(task.ref) == before


def test_of_8_deletions_at_once_one_deletes(store: Store) -> None:
    task = ended(store)

    def delete(_: int) -> bool:
        try:
            store.delete(task)
        except TaskLost:
            return False
        return True

    assert sum(at_once(delete, range(8))) == 1
    assert is_gone(store, task)


def test_a_task_is_shown_until_30_days_after_its_end(keeping: Keeping) -> None:
    """Then no more, whether it has been removed yet or not."""
    task = ended(keeping.store)
    assert task.finished_ms is not None
    keeping.clock.now_ms = task.finished_ms + 30 * DAY_MS - 1
    keeping.store.prune(9)
    assert keeping.store.get(task.ref).result == "a" * 10

    keeping.clock.now_ms += 1

    assert is_gone(keeping.store, task)
    keeping.store.prune(9)
    assert is_gone(keeping.store, task)
    assert keeping.store.overview()[0] == Counters(total=1, completed=1, **paid(calls=2))


def test_what_is_open_does_not_expire(keeping: Keeping) -> None:
    task = a_task()
    keeping.store.add(task, a_request())
    keeping.clock.now_ms += 1_000 * DAY_MS

    keeping.store.retain(task)
    keeping.store.prune(9)

    assert keeping.store.get(task.ref).task == task


def test_a_task_that_is_taken_up_again_is_kept_from_its_new_end(keeping: Keeping) -> None:
    task, failure = a_task(), a_failure(attempts=(an_attempt(),))
    keeping.store.add(task, a_request())
    keeping.store.save(task, claimed(task))
    failed = claimed(task).failed(failure)
    keeping.store.save(claimed(task), failed, failure)
    keeping.clock.now_ms += 29 * DAY_MS
    again = failed.retried(now_ms=keeping.clock(), due_ms=keeping.clock(), deadline_ms=None)
    keeping.store.retain(failed)
    keeping.store.save(failed, again)
    keeping.clock.now_ms += 29 * DAY_MS
    keeping.store.prune(9)

    assert keeping.store.get(task.ref).outputs == by_key(failure)


def paid(calls: int) -> dict[str, int]:
    """What so many calls of the builder add to the counters."""
    each = {"calls": 1, "api_calls": 1, "tokens_in": 10, "tokens_out": 20, "duration_ms": 1_000, "cost_microusd": 300}
    return {name: calls * value for name, value in each.items()}
