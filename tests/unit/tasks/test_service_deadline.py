"""`limits.deadline_s` counts from acceptance, in whatever status the task is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import DAY_MS, Task, TaskRef
from support.builders import an_output, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served

PASSED = "The deadline of 600 s has passed."
TEN_MINUTES = Limits(deadline_s=600)


def swept_each_minute(served: Served, seconds: float) -> None:
    for _ in range(int(seconds // 60)):
        served.clock.pass_s(60)
        served.service.sweep()


@pytest.mark.parametrize("message_is_lost", [False, True])
def test_the_deadline_fails_a_task_that_no_worker_has_claimed(served: Served, message_is_lost: bool) -> None:
    """The next sweep fails it, however long the queue is."""
    ref = served.submit(limits=TEN_MINUTES)
    if message_is_lost:
        served.queue.receive(0)
    swept_each_minute(served, 540)
    assert served.get(ref).task.status is Status.QUEUED

    swept_each_minute(served, 60)

    snapshot = served.get(ref)
    assert (snapshot.task.error, snapshot.task.finished_ms) == (PASSED, served.clock.now_ms)
    served.work()
    assert served.engine.calls == []


def test_a_deadline_of_one_second_is_enough_for_a_fast_engine(served: Served) -> None:
    """One second is the smallest allowed deadline, and part of it passes before a worker claims the task."""
    ref = served.submit(limits=Limits(deadline_s=1))
    served.clock.pass_s(0.3)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_calls_before_the_deadline_stay_on_the_receipt(served: Served) -> None:
    served.engine = ScriptedEngine(EngineUnavailable("Busy."))
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit(limits=TEN_MINUTES)
    served.work()
    swept_each_minute(served, 600)

    assert (served.get(ref).task.error, served.get(ref).task.receipt.failed_calls) == (PASSED, 1)


def test_the_deadline_fails_a_task_that_waits_for_engines(served: Served) -> None:
    served.engine = ScriptedEngine(EngineUnavailable("Gone.", kind="unreachable"))
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit(limits=TEN_MINUTES)
    for _ in range(60):
        served.work()
        served.clock.pass_s(10)
    assert served.get(ref).task.waiting_for == "only"
    served.service.sweep()

    assert served.get(ref).task.error == PASSED


def test_the_deadline_fails_a_plan_between_its_steps(served: Served) -> None:
    """The next call is not started, and the results of finished steps stay readable."""
    script = planning(a_plan({"a": "", "b": "a"}))

    def slow(call: EngineCall) -> Answer:
        served.clock.pass_s(250 if call.answer_schema is None else 0)
        return script.complete(call, timeout_s=1)

    served.engine = ScriptedEngine(slow)
    served.use(a_catalog({"only": an_engine(timeout_s=590)}))
    ref = served.submit(mode=Mode.PLAN, profile="General", limits=Limits(deadline_s=300))
    for _ in range(3):
        served.work()
        served.clock.pass_s(LEASE_S)
    served.service.sweep()
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.error, output_key("STEP#a") in snapshot.outputs) == (
        "The deadline of 300 s has passed.",
        True,
    )


def test_a_stored_answer_is_adopted_even_after_the_deadline(served: Served) -> None:
    """A worker whose lease had ended kept its answer after the task was released."""
    ref = served.submit(limits=TEN_MINUTES)
    served.store.keep(ref, an_output())
    served.clock.pass_s(600)

    assert (served.service.sweep(), served.work()) == (0, 1)
    assert served.get(ref).result == "Hello."


def test_the_sweep_does_not_fail_a_task_whose_lease_holds(served: Served) -> None:
    """The worker ends its call at the deadline itself."""
    ref = served.submit(limits=Limits(deadline_s=30))
    task, now_ms = served.store.peek(ref), served.clock()
    end_ms = now_ms + LEASE_S * 1000
    served.store.save(task, task.claimed(owner="w", now_ms=now_ms, lease_ms=end_ms, has_plan=False))
    served.clock.pass_s(31)

    served.service.sweep()

    assert served.get(ref).task.status is Status.PROCESSING


@pytest.mark.parametrize("plan_approval", [False, True])
def test_the_sweep_looks_at_every_open_task_once_a_day(served: Served, plan_approval: bool) -> None:
    """This includes plans that wait for approval, and tasks that have waited for weeks."""
    served.engine = planning(a_plan({"a": ""}))
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit(mode=Mode.PLAN, plan_approval=plan_approval)
    if plan_approval:
        served.work()
    for _ in range(5):
        served.clock.pass_s(7 * DAY_MS / 1000)
        served.service.sweep()
        dues = list(served.store.due(served.clock.now_ms + DAY_MS))
        assert [due.ref for due in dues] == [ref]
        assert list(served.store.due(served.clock.now_ms + SWEEP_S * 1000)) == []


def test_the_sweep_does_not_fail_a_task_that_was_cancelled_meanwhile(served: Served) -> None:
    ref = served.submit(limits=TEN_MINUTES)
    served.clock.pass_s(600)
    peek_each = served.store.peek_each

    def peek_then_cancel(refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        tasks = peek_each(refs)
        served.service.cancel(ref)
        return tasks

    served.store.peek_each = peek_then_cancel  # type: ignore[method-assign]

    assert served.service.sweep() == 0
    assert served.get(ref).task.status is Status.CANCELLED
