"""Deleting a task: never from under a worker, gauges right, and nothing left."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import StateConflict, TaskNotFound
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.builders import an_attempt, an_output
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, Served


def gone(served: Served, ref: TaskRef) -> bool:
    """Whether it is gone; the audit at a test's end can then count it no more."""
    with pytest.raises(TaskNotFound):
        served.get(ref)
    return True


@pytest.fixture
def deleting(served: Served) -> Served:
    """The audit recounts what is there, so what was deleted is kept out of it by the tests themselves."""
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
    """The gauge goes back; its message finds nothing."""
    ref = deleting.submit()

    deleting.service.delete(ref)
    deleting.work()

    assert gone(deleting, ref)
    assert deleting.service.counters() == Counters(total=1, cancelled=1)
    assert deleting.engine.calls == []


def test_a_plan_that_waits_for_its_callers_word_is_deleted(deleting: Served) -> None:
    deleting.engine = planning(a_plan({"a": ""}))
    deleting.use(a_catalog({"only": an_engine()}))
    ref = deleting.submit(mode=Mode.PLAN, plan_approval=True)
    deleting.work()

    deleting.service.delete(ref)

    assert gone(deleting, ref)
    assert deleting.service.counters().active == 0


def test_a_task_that_a_worker_has_is_left_to_it(deleting: Served) -> None:
    """Until its lease ends: then nobody has it any more."""
    mine = in_the_hands_of_a_worker(deleting)

    with pytest.raises(StateConflict, match="A worker has the task"):
        deleting.service.delete(mine.ref)
    assert deleting.get(mine.ref).task == mine
    deleting.clock.pass_s(LEASE_S)
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)
    assert deleting.service.counters() == Counters(total=1, cancelled=1)


def test_a_cancelled_task_is_not_deleted_before_its_worker_has_settled(deleting: Served) -> None:
    """What the worker paid would be on no receipt."""
    mine = in_the_hands_of_a_worker(deleting)
    deleting.service.cancel(mine.ref)

    with pytest.raises(StateConflict, match="A worker has the task"):
        deleting.service.delete(mine.ref)
    deleting.service._worker._settlement.settle(mine, (an_attempt(),))
    assert deleting.service.counters().cost_microusd == 300
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)


def test_what_a_dead_worker_paid_is_counted_before_its_task_goes(deleting: Served) -> None:
    """It kept its answer, and died before it could put down what that had cost."""
    mine = in_the_hands_of_a_worker(deleting)
    deleting.service.cancel(mine.ref)
    deleting.store.keep(mine.ref, an_output(f"RES#{mine.fence}", attempts=(an_attempt(),)))
    deleting.clock.pass_s(LEASE_S)
    deleting.service.delete(mine.ref)

    assert gone(deleting, mine.ref)
    assert deleting.service.counters().cost_microusd == 300


def test_what_a_worker_keeps_of_a_deleted_task_does_not_stay(deleting: Served) -> None:
    """Its lease had ended while the engine was thinking."""

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


def test_a_key_does_not_bring_its_deleted_task_back(deleting: Served) -> None:
    """A POST that was still on its way when its task was deleted."""
    task = deleting.service.submit_once("local", NewTask(prompt="One."), "k").task
    deleting.service.delete(task.ref)

    with pytest.raises(StateConflict, match="was deleted"):
        deleting.service.submit_once("local", NewTask(prompt="One."), "k")
    assert gone(deleting, task.ref)
    assert deleting.service.counters().total == 1
