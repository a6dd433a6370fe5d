"""A Failed task that its caller retries: finished work is kept and paid once, failed work is done again."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, StateConflict, TaskNotFound
from llm_server.orchestration.domain.plan import digest
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import a_lifecycle, key_texts, output_key
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, a_catalog, an_engine
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


def test_a_failed_task_is_done_again(served: Served) -> None:
    """Under its id; the first try stays on the receipt, and the counters agree at every moment."""
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
    """b failed and c was skipped for it: both are done now; plan and a are not paid twice; b's first try stays."""
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


def test_a_retry_that_is_cancelled_pays_for_a_steps_earlier_try_once(served: Served) -> None:
    """By another process, while the step is done again: its second call is added, its first one is there already."""

    def cancelled(_: EngineCall) -> Answer:
        a_lifecycle(served.store, served.clock).cancel(ref)
        return "did b"

    billed = PromptRefused("No.", tokens_in=1_000, tokens_out=1_000)
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
    """And can be retried again, with all its tries on the receipt."""
    use(served, planning(a_plan({"a": ""}), a=[NO, NO, "did a"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    assert served.get(ref).task.error == "Step a failed: No."

    served.service.retry(ref)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
    assert purposes(served, ref).count(("step a", False)) == 2


def test_a_worker_that_dies_in_the_retried_step_leaves_it_to_the_next(served: Served) -> None:
    """Claims in between do not bring the old failure back."""
    use(served, planning(a_plan({"a": ""}), a=[NO, BUSY, "did a"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    assert served.get(ref).task.status is Status.QUEUED
    served.clock.pass_s(60)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_a_step_that_failed_in_the_retry_is_not_done_once_more(served: Served) -> None:
    """Its sibling is not through yet, and the next claim finds both."""
    use(served, planning(a_plan({"a": "", "b": ""}), a=NO, b=[NO, BUSY, "did b"]))
    ref = failed(served, mode=Mode.PLAN, profile="General")
    served.service.retry(ref)
    served.work()
    served.clock.pass_s(60)
    served.work()

    assert served.get(ref).task.error == "Step a failed: No."
    assert purposes(served, ref).count(("step a", False)) == 2


def test_a_task_that_used_up_its_deliveries_has_them_again(served: Served) -> None:
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
    """From acceptance it would have passed already."""
    ref = served.submit(limits=Limits(deadline_s=100))
    served.clock.pass_s(100)
    served.work()
    assert served.get(ref).task.error == "The deadline of 100 s has passed."

    served.service.retry(ref)
    served.clock.pass_s(98)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED


def test_a_plan_that_nobody_approved_in_time_waits_again(served: Served) -> None:
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


def test_money_that_was_spent_is_spent(served: Served) -> None:
    """`max_cost_usd` is for the task, not for each try."""
    use(served, planning(a_plan({"a": ""}), a=NO))
    ref = failed(served, mode=Mode.PLAN, profile="General", limits=Limits(max_cost_usd=0.05))
    spent = served.get(ref).task.receipt.cost_microusd
    served.service.retry(ref)

    assert served.get(ref).task.receipt.cost_microusd == spent > 0


def test_only_what_has_failed_is_retried(served: Served) -> None:
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


def test_a_retry_whose_message_is_lost_is_swept(served: Served) -> None:
    use(served, ScriptedEngine(NO, "At last."))
    ref = failed(served)
    served.queue.down = True
    served.service.retry(ref)
    served.queue.down = False
    served.clock.pass_s(200)

    assert (served.service.sweep(), served.work()) == (1, 1)
    assert served.get(ref).result == "At last."
