"""A record that breaks the sweep does not keep it from the other tasks or from removing expired data."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from llm_server.orchestration.domain.errors import StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.retention import SLACK_MS
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.sweep import PRUNES_MS, PUT_OFF_MS
from support.scripted_service import SWEEP_S, Served

Spoil = Callable[[Served, TaskRef], None]


def of_a_newer_version(served: Served, ref: TaskRef) -> None:
    """Make the state of the task unreadable."""
    update = "UPDATE tasks SET body = replace(body, 'Chat', 'Debate') WHERE task_id = ?"
    served.store._database.write(lambda db: db.execute(update, (ref.task_id,)))


def that_cannot_be_retained(served: Served, ref: TaskRef) -> None:
    retain = served.store.retain

    def failing(task: Task) -> None:
        if task.ref == ref:
            raise LookupError
        retain(task)

    served.store.retain = failing  # type: ignore[method-assign]


def restored(served: Served, ref: TaskRef) -> None:
    """Make the state readable again for the audit."""
    update = "UPDATE tasks SET body = replace(body, 'Debate', 'Chat') WHERE task_id = ?"
    served.store._database.write(lambda db: db.execute(update, (ref.task_id,)))


def pruned(served: Served) -> list[int]:
    """Record the times at which the store is asked to remove expired data."""
    asked: list[int] = []
    served.store.prune = asked.append  # type: ignore[method-assign, assignment]
    return asked


@pytest.mark.parametrize("spoil", [of_a_newer_version, that_cannot_be_retained])
def test_an_unreadable_record_is_postponed_and_the_other_tasks_are_woken(
    served: Served, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    """The record is due first, is logged with its task id, and becomes due again after an hour."""
    bad, *others = [served.submit(f"Say {n}.") for n in range(4)]
    while served.queue.receive(0):
        pass
    served.clock.pass_s(SLACK_MS / 1000)
    spoil(served, bad)
    asked = pruned(served)

    assert served.service.sweep() == len(others)

    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [vars(record)["task_id"] for record in told] == [bad.task_id]
    assert "Say 0." not in caplog.text
    assert len(asked) == 1
    assert bad not in [due.ref for due in served.store.due(served.clock() + PUT_OFF_MS - 1)]
    assert bad in [due.ref for due in served.store.due(served.clock() + PUT_OFF_MS)]
    restored(served, bad)


def test_a_task_with_a_storage_error_is_woken_by_the_next_sweep(served: Served) -> None:
    """The error is temporary: the task stays due, and the other tasks are woken now."""
    late, other = served.submit(), served.submit()
    while served.queue.receive(0):
        pass
    served.clock.pass_s(SLACK_MS / 1000)
    retain = served.store.retain

    def away(task: Task) -> None:
        if task.ref == late:
            raise StorageUnavailable("The database is too busy; try again.")

    served.store.retain = away  # type: ignore[method-assign]
    assert served.service.sweep() == 1
    assert served.queue.receive(0) == Message(other)
    served.store.retain = retain  # type: ignore[method-assign]

    assert served.service.sweep() == 1
    assert served.queue.receive(0) == Message(late)


def test_a_task_deleted_during_its_deadline_check_does_not_stop_the_sweep(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """It is deleted after its state was read and before the rest is read; this is not logged as a warning."""
    limits = Limits(deadline_s=60)
    gone, overdue = served.submit(limits=limits), served.submit(limits=limits)
    served.clock.pass_s(SWEEP_S)
    get = served.store.get

    def deleted_meanwhile(ref: TaskRef) -> Snapshot:
        if ref == gone:
            raise TaskNotFound
        return get(ref)

    served.store.get = deleted_meanwhile  # type: ignore[method-assign]
    assert served.service.sweep() == 0
    served.store.get = get  # type: ignore[method-assign]

    assert served.get(overdue).task.status is Status.FAILED
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_expired_data_is_removed_even_if_the_sweep_fails(served: Served) -> None:
    """Here the queue's depth cannot be read."""
    served.submit()
    served.clock.pass_s(SWEEP_S)
    asked = pruned(served)
    depth = served.queue.depth

    def away() -> int:
        raise StorageUnavailable("The queue does not answer; try again.")

    served.queue.depth = away  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable):
        served.service.sweep()

    assert len(asked) == 1
    served.queue.depth = depth  # type: ignore[method-assign]


def test_expired_data_is_removed_until_the_sweeps_time_is_over(served: Served) -> None:
    """In many calls, so that other threads write in between; not at all once the server stops."""
    calls = 0

    def pruned_slowly(limit: int) -> bool:
        nonlocal calls
        calls += 1
        served.clock.pass_s(1)
        return True

    prune = served.store.prune
    served.store.prune = pruned_slowly  # type: ignore[method-assign]
    served.service.sweep()
    assert calls == PRUNES_MS // 1000

    stops = iter([True, True, False])
    served.service.sweep(lambda: next(stops))
    assert calls == PRUNES_MS // 1000 + 2
    served.store.prune = prune  # type: ignore[method-assign]
