"""What every store promises to the sweep: open tasks come due, one sweep takes each, final ones never come."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.task import NEAR_MS, Task, TaskRef
from support.builders import LEASE_MS, NOW_MS, SWEEP_MS, a_failure, a_request, a_task, an_output, claimed

DUE_MS = NOW_MS + SWEEP_MS
LATER_MS = NOW_MS + 10 * SWEEP_MS


def added(store: Store, task: Task) -> Task:
    store.add(task, a_request())
    return task


def test_an_open_task_comes_due_at_its_time(store: Store) -> None:
    task = added(store, a_task(tenant="acme"))

    assert list(store.due(DUE_MS - 1)) == []
    assert list(store.due(DUE_MS)) == [Due(task.ref, DUE_MS)]


def test_the_oldest_due_comes_first(store: Store) -> None:
    """A task that was claimed keeps its due time, and is older than what still waits."""
    tasks = [added(store, a_task(due_ms=NOW_MS + n)) for n in range(25)]

    assert [due.ref for due in store.due(LATER_MS)] == [task.ref for task in tasks]


def test_everything_due_comes_once_page_after_page(store: Store) -> None:
    """Also tasks that are due at the same moment, and tasks that stay due because they could not be postponed."""
    tasks = [added(store, a_task(due_ms=NOW_MS + n // 120)) for n in range(240)]

    assert sorted(due.ref.task_id for due in store.due(LATER_MS)) == sorted(task.task_id for task in tasks)


def test_what_must_be_looked_at_on_time_comes_first(store: Store) -> None:
    """The end of a claim and a deadline that is near, before older tasks that merely wait."""
    for n in range(20):
        added(store, a_task(due_ms=NOW_MS + n))
    far = added(store, a_task(due_ms=NOW_MS + 50, deadline_ms=NOW_MS + 50 + NEAR_MS + 1))
    near = added(store, a_task(due_ms=NOW_MS + 50, deadline_ms=NOW_MS + 50 + NEAR_MS))
    deserted = added(store, a_task(due_ms=NOW_MS + 60))
    store.save(deserted, claimed(deserted))
    assert store.postpone(Due(deserted.ref, NOW_MS + 60), claimed(deserted), NOW_MS + LEASE_MS)

    found = [due.ref for due in store.due(LATER_MS)]

    assert found[:2] == [near.ref, deserted.ref]
    assert found[-1] == far.ref
    assert len(found) == 23


def test_a_deadline_that_comes_near_is_looked_at_on_time_from_then_on(store: Store) -> None:
    added(store, a_task(due_ms=NOW_MS))
    task = added(store, a_task(due_ms=NOW_MS + 1, deadline_ms=LATER_MS + NEAR_MS))
    assert next(store.due(LATER_MS)).ref != task.ref

    assert store.postpone(Due(task.ref, NOW_MS + 1), task, LATER_MS)

    assert next(store.due(LATER_MS)).ref == task.ref


def test_states_are_read_together(store: Store) -> None:
    """What is gone is left out; a task that is named twice is there once."""
    tasks = [added(store, a_task()) for _ in range(3)]
    store.save(tasks[0], claimed(tasks[0]))

    found = store.peek_each([*(task.ref for task in tasks), tasks[1].ref, TaskRef("local", "gone")])

    assert found == {tasks[0].ref: claimed(tasks[0]), tasks[1].ref: tasks[1], tasks[2].ref: tasks[2]}
    assert store.peek_each([]) == {}


def test_a_task_in_hand_is_still_open(store: Store) -> None:
    """Its worker may die, and then only the sweep finds the task."""
    task = added(store, a_task())
    store.save(task, claimed(task))

    assert [due.ref for due in store.due(LATER_MS)] == [task.ref]


def test_a_final_task_is_not_open(store: Store) -> None:
    completed, failed = added(store, a_task()), added(store, a_task())
    answer = an_output()
    for task in (completed, failed):
        store.save(task, claimed(task))
    store.keep(completed.ref, answer)
    store.save(claimed(completed), claimed(completed).completed(answer))
    store.save(claimed(failed), claimed(failed).failed(a_failure()), a_failure())

    assert list(store.due(LATER_MS)) == []


def test_a_released_task_is_due_when_it_says(store: Store) -> None:
    task = added(store, a_task())
    processing, pause = claimed(task), a_failure(error=None)
    store.save(task, processing)

    store.save(processing, processing.released(pause, due_ms=LATER_MS), pause)

    assert list(store.due(LATER_MS - 1)) == []
    assert list(store.due(LATER_MS)) == [Due(task.ref, LATER_MS)]


def test_only_one_of_two_sweeps_gets_a_task(store: Store) -> None:
    task = added(store, a_task())
    (seen,) = list(store.due(DUE_MS))

    assert store.postpone(seen, task, LATER_MS)
    assert not store.postpone(seen, task, LATER_MS + 1)
    assert list(store.due(LATER_MS - 1)) == []
    assert list(store.due(LATER_MS)) == [Due(task.ref, LATER_MS)]


def test_a_task_that_was_claimed_meanwhile_is_not_postponed(store: Store) -> None:
    """The claim leaves the due time: moved on by a sweep that saw the task waiting, its lease would go unwatched."""
    task = added(store, a_task())
    (seen,) = list(store.due(DUE_MS))
    store.save(task, claimed(task))

    assert not store.postpone(seen, task, LATER_MS)
    assert list(store.due(DUE_MS)) == [seen]
    assert store.postpone(seen, claimed(task), NOW_MS + LEASE_MS)


def test_a_postponed_task_is_the_same_to_its_readers(store: Store) -> None:
    task = added(store, a_task())
    before = store.get(task.ref)

    store.postpone(Due(task.ref, DUE_MS), task, LATER_MS)

    assert store.get(task.ref) == before


def test_a_worker_s_next_save_succeeds_after_a_sweep_moved_its_task_on(store: Store) -> None:
    task = added(store, a_task())
    processing = claimed(task)
    store.save(task, processing)
    assert store.postpone(Due(task.ref, DUE_MS), processing, NOW_MS + LEASE_MS)
    plan, answer = an_output("PLAN"), an_output("RES#1")
    planned = processing.progressed(plan)

    store.save(processing, planned, plan)
    store.keep(task.ref, answer)
    store.save(planned, planned.completed(answer))

    assert store.get(task.ref).result == "Hello."
    assert list(store.due(LATER_MS)) == []


def test_a_repeated_save_is_no_error_after_a_sweep_moved_the_task_on(store: Store) -> None:
    task = added(store, a_task())
    store.save(task, claimed(task))
    assert store.postpone(Due(task.ref, DUE_MS), claimed(task), LATER_MS)

    store.save(task, claimed(task))

    assert store.overview()[0].active == 1


@pytest.mark.parametrize("tenant", ["local", "a.b-c_d", "ü" * 20])
def test_a_due_task_is_named_in_full(store: Store, tenant: str) -> None:
    task = added(store, a_task("0197-#-x", tenant=tenant))

    assert list(store.due(DUE_MS)) == [Due(TaskRef(tenant, "0197-#-x"), DUE_MS)]
    assert store.peek(next(store.due(DUE_MS)).ref) == task


def test_what_is_final_or_unknown_cannot_be_postponed(store: Store) -> None:
    task = added(store, a_task())
    store.save(task, claimed(task))
    failed = claimed(task).failed(a_failure())
    store.save(claimed(task), failed, a_failure())

    assert not store.postpone(Due(task.ref, DUE_MS), failed, LATER_MS)
    assert not store.postpone(Due(TaskRef("local", "unknown"), DUE_MS), a_task("unknown"), LATER_MS)
    assert list(store.due(LATER_MS)) == []
