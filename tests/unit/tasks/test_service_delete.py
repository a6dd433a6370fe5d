"""Deletion of a task: refused while a worker has it; afterwards the gauges are right and no data is left."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import StateConflict, TaskNotFound
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.builders import an_attempt, an_output
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, Served


def gone(served: Served, ref: TaskRef) -> bool:
    """Check that reading the task raises TaskNotFound."""
    with pytest.raises(TaskNotFound):
        served.get(ref)
    return True


@pytest.fixture
def deleting(served: Served) -> Served:
    """Switch the audit off: it recounts stored tasks, and deleted ones are missing."""
    served.audit = lambda: None  # type: ignore[method-assign]
    return served


def in_the_hands_of_a_worker(served: Served) -> Task:
    ref, now_ms = served.submit(), served.clock()
    task = served.store.peek(ref)
    mine = task.claimed(owner="w", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
    served.store.save(task, mine)
    return mine


def test_a_final_task_is_deleted_once(deleting: Served) -> None:
    ref = deleting.submit()
    deleting.work()

    deleting.service.delete(ref)

    assert gone(deleting, ref)
    assert deleting.service.counters().completed == 1
    with pytest.raises(TaskNotFound):
        deleting.service.delete(ref)


def test_a_queued_task_is_cancelled_and_deleted(deleting: Served) -> None:
    """The gauge decreases, and the task's message has no effect."""
    ref = deleting.submit()

    deleting.service.delete(ref)
    deleting.work()

    assert gone(deleting, ref)
    assert deleting.service.counters() == Counters(total=1, cancelled=1)
    assert deleting.engine.calls == []


def test_a_plan_that_waits_for_approval_can_be_deleted(deleting: Served) -> None:
    deleting.engine = planning(a_plan({"a": ""}))
    deleting.use(a_catalog({"only": an_engine()}))
    ref = deleting.submit(mode=Mode.PLAN, plan_approval=True)
    deleting.work()

    deleting.service.delete(ref)

    assert gone(deleting, ref)
    assert deleting.service.counters().active == 0


def test_a_task_that_a_worker_has_claimed_cannot_be_deleted(deleting: Served) -> None:
    """After the lease has ended, it can be deleted."""
    mine = in_the_hands_of_a_worker(deleting)

    with pytest.raises(StateConflict, match="A worker has the task"):
        deleting.service.delete(mine.ref)
    assert deleting.get(mine.ref).task == mine
    deleting.clock.pass_s(LEASE_S)
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)
    assert deleting.service.counters() == Counters(total=1, cancelled=1)


def test_a_cancelled_task_is_not_deleted_before_its_worker_has_settled(deleting: Served) -> None:
    """Otherwise the cost of the worker's calls would not be counted."""
    mine = in_the_hands_of_a_worker(deleting)
    deleting.service.cancel(mine.ref)

    with pytest.raises(StateConflict, match="A worker has the task"):
        deleting.service.delete(mine.ref)
    assert deleting.service._worker
    deleting.service._worker._settlement.settle(mine, (an_attempt(),))
    assert deleting.service.counters().cost_microusd == 300
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)


def test_the_cost_of_a_dead_workers_answer_is_counted_before_deletion(deleting: Served) -> None:
    """The worker stored its answer and died before it recorded the cost."""
    mine = in_the_hands_of_a_worker(deleting)
    deleting.service.cancel(mine.ref)
    deleting.store.keep(mine.ref, an_output(f"RES#{mine.fence}", attempts=(an_attempt(),)))
    deleting.clock.pass_s(LEASE_S)
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)
    assert deleting.service.counters().cost_microusd == 300


def test_an_answer_that_a_worker_stores_after_deletion_is_removed(deleting: Served) -> None:
    """The worker's lease ended during its engine call."""

    def slow(_: EngineCall) -> Answer:
        deleting.clock.pass_s(LEASE_S + 1)
        deleting.service.delete(ref)
        return "Too late."

    deleting.engine = ScriptedEngine(slow)
    deleting.use(a_catalog({"only": an_engine()}))
    ref = deleting.submit()
    deleting.work()

    with deleting.store._database.reading() as db:
        assert db.execute("SELECT count(*) FROM outputs").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    assert gone(deleting, ref)


def test_a_repeated_post_does_not_recreate_its_deleted_task(deleting: Served) -> None:
    """The second POST has the same Idempotency-Key and arrives after the deletion."""
    task = deleting.service.submit_once("local", NewTask(prompt="One."), "k").task
    deleting.service.delete(task.ref)

    with pytest.raises(StateConflict, match="was deleted"):
        deleting.service.submit_once("local", NewTask(prompt="One."), "k")
    assert gone(deleting, task.ref)
    assert deleting.service.counters().total == 1
