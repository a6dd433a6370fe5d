"""Retry of a Failed task: finished work is kept and paid once, failed work is done again."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, StateConflict, TaskNotFound
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import a_lifecycle, key_texts, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, a_usage, an_engine
from support.scripted_service import Served

NO = PromptRefused("No.")
BUSY = EngineUnavailable("Busy.")


def use(served: Served, engine: ScriptedEngine) -> None:
    served.engine = engine
    served.use(a_catalog({"only": an_engine()}))


def failed(served: Served, **asked: Any) -> TaskRef:
    ref = served.submit(**asked)
    served.work()
    assert served.get(ref).task.status is Status.FAILED
    return ref


def purposes(served: Served, ref: TaskRef) -> list[tuple[str, bool]]:
    return [(a.purpose, a.answered) for a in served.get(ref).attempts]


def test_a_failed_task_can_be_retried(served: Served) -> None:
    """It keeps its id, the first attempt stays on the receipt, and the counters agree at every moment."""
    use(served, ScriptedEngine(NO, "At last."))
    ref = failed(served)
    assert served.service.counters() == Counters(total=1, failed=1, failed_calls=1)

    served.clock.pass_s(1)
    queued = served.service.retry(ref).task
    assert (queued.status, queued.error, queued.finished_ms, queued.deliveries) == (Status.QUEUED, None, None, 0)
    assert served.service.counters() == Counters(total=1, queued=1, failed_calls=1)
    served.audit()
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.result, snapshot.task.error, snapshot.task.fence) == ("At last.", None, 2)
    assert purposes(served, ref) == [("answer", False), ("answer", True)]
    assert served.service.metrics()["success_rate"] == 100


def test_finished_steps_are_kept_and_failed_ones_done_again(served: Served) -> None:
    """Step b failed, so c was skipped: the retry does both.

    Plan and a are not paid again; b's first attempt stays listed.
    """
    use(served, planning(a_plan({"a": "", "b": "", "c": "b"}), b=[NO, "did b"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    assert key_texts(served.get(ref).outputs) == ["PLAN", "STEP#a", "STEP#b", "TRY#1"]

    served.service.retry(ref)
    assert key_texts(served.get(ref).standing) == ["PLAN", "STEP#a", "TRY#1"]
    served.audit()
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
    assert sorted(purposes(served, ref)) == [
        ("plan", True), ("step a", True), ("step b", False), ("step b", True), ("step c", True), ("synthesis", True),
    ]  # fmt: skip
    assert [a.error is None for a in served.get(ref).outputs[output_key("STEP#b")].attempts] == [False, True]


def test_cancelling_a_retry_does_not_charge_a_steps_earlier_attempt_again(served: Served) -> None:
    """Another process cancels during the second call of the step.

    Only that call is added; the first was counted before.
    """

    def cancelled(_: EngineCall) -> Answer:
        a_lifecycle(served.store, served.clock).cancel(ref)
        return "did b"

    billed = PromptRefused("No.", usage=a_usage(1_000, 1_000))
    use(served, planning(a_plan({"a": "", "b": ""}), b=billed))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    before = served.get(ref).task.receipt
    use(served, ScriptedEngine(cancelled))
    served.service.retry(ref)
    served.work()

    receipt = served.get(ref).task.receipt
    assert served.get(ref).task.status is Status.CANCELLED
    assert (receipt.cost_microusd - before.cost_microusd, receipt.calls - before.calls) == (50, 1)


def test_a_step_that_fails_again_fails_the_task_again(served: Served) -> None:
    """It can be retried again, and all its attempts stay on the receipt."""
    use(served, planning(a_plan({"a": ""}), a=[NO, NO, "did a"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    assert served.get(ref).task.error == "Step a failed: No."

    served.service.retry(ref)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
    assert purposes(served, ref).count(("step a", False)) == 2


def test_a_retried_step_that_is_released_is_done_by_the_next_claim(served: Served) -> None:
    """Later claims do not restore the step's earlier failure."""
    use(served, planning(a_plan({"a": ""}), a=[NO, BUSY, "did a"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    assert served.get(ref).task.status is Status.QUEUED
    served.clock.pass_s(60)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_a_step_that_failed_in_the_retry_is_not_done_again_by_a_later_claim(served: Served) -> None:
    """The parallel step is unfinished, so a later claim finds one failed step and one open step."""
    use(served, planning(a_plan({"a": "", "b": ""}), a=NO, b=[NO, BUSY, "did b"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    served.clock.pass_s(60)
    served.work()

    assert served.get(ref).task.error == "Step a failed: No."
    assert purposes(served, ref).count(("step a", False)) == 2


def test_a_retry_resets_the_count_of_deliveries(served: Served) -> None:
    use(served, ScriptedEngine(BUSY))
    ref = served.submit()
    for _ in range(9):
        served.work()
        served.clock.pass_s(400)
    assert served.get(ref).task.status is Status.FAILED

    served.engine._answers.clear()
    served.engine._answers.append("Back.")
    served.service.retry(ref)
    served.work()

    assert served.get(ref).result == "Back."


def test_a_deadline_counts_from_the_retry(served: Served) -> None:
    """Counted from acceptance, the deadline would already have passed."""
    ref = served.submit(limits=Limits(deadline_s=100))
    served.clock.pass_s(100)
    served.work()
    assert served.get(ref).task.error == "The deadline of 100 s has passed."

    served.service.retry(ref)
    served.clock.pass_s(98)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_a_plan_not_approved_before_its_deadline_waits_for_approval_again(served: Served) -> None:
    use(served, planning(a_plan({"a": ""})))
    ref = served.submit(mode=Mode.PLAN, profile="General", plan_approval=True, limits=Limits(deadline_s=100))
    served.work()
    served.clock.pass_s(100)
    served.service.sweep()

    task = served.service.retry(ref).task
    assert (task.status, task.awaits_approval, served.work()) == (Status.PLANNED, True, 0)
    served.service.approve(ref, digest(served.get(ref).outputs[output_key("PLAN")].text or ""), approve=True)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_a_retry_does_not_reset_the_money_spent(served: Served) -> None:
    """`max_cost_usd` applies to the task, not to each retry."""
    use(served, planning(a_plan({"a": ""}), a=NO))
    ref = failed(served, mode=Mode.PLAN, profile="General", limits=Limits(max_cost_usd=0.05))
    spent = served.get(ref).task.receipt.cost_microusd
    served.service.retry(ref)

    assert served.get(ref).task.receipt.cost_microusd == spent > 0


def test_only_failed_tasks_can_be_retried(served: Served) -> None:
    queued, cancelled = served.submit(), served.submit()
    served.service.cancel(cancelled)

    for ref, status in ((queued, "Queued"), (cancelled, "Cancelled")):
        with pytest.raises(StateConflict, match=status):
            served.service.retry(ref)
    served.work()
    with pytest.raises(StateConflict, match="Completed"):
        served.service.retry(queued)
    with pytest.raises(TaskNotFound):
        served.service.retry(TaskRef("local", "unknown"))


def test_a_retry_whose_message_is_lost_is_woken_by_the_sweep(served: Served) -> None:
    use(served, ScriptedEngine(NO, "At last."))
    ref = failed(served)
    served.queue.down = True
    served.service.retry(ref)
    served.queue.down = False
    served.clock.pass_s(200)

    assert (served.service.sweep(), served.work()) == (1, 1)
    assert served.get(ref).result == "At last."
