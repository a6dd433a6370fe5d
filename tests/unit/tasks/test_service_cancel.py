"""A cancelled task ends in any status, its engine calls are broken off, and their cost stays on its receipt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llm_server.orchestration.domain.cancellation import MAX_CHECK_AGE_MS
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, StateConflict, TaskCancelled, TaskNotFound
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import an_output, key_texts
from support.deliveries import a_plan, planning
from support.scripted_engine import WAIT_S, Answer, ScriptedEngine, a_catalog, a_completion, a_local_engine, an_engine
from support.scripted_service import LEASE_S, Served


class HeldEngine(ScriptedEngine):
    """Answers at once, except for prompts that end in one of the `held` words: those wait until they are cancelled."""

    def __init__(self, *held: str, script: ScriptedEngine | None = None) -> None:
        super().__init__()
        self._held = held
        self._script = script or ScriptedEngine()
        self.waiting = threading.Semaphore(0)

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        if not call.prompt.endswith(self._held):
            return self._script.complete(call, timeout_s=timeout_s)
        self.calls.append(call)
        over = threading.Event()
        with call.cancellation.on_cancel(over.set):
            self.waiting.release()
            if over.wait(WAIT_S):
                raise TaskCancelled
        raise AssertionError("the call was not cancelled")


def use(served: Served, engine: ScriptedEngine, **defaults: Any) -> None:
    served.engine = engine
    served.use(a_catalog({"only": an_engine()}, **defaults))


def cancelled_while(served: Served, engine: HeldEngine, ref: TaskRef, calls: int = 1) -> Snapshot:
    """Let a worker process the task, cancel it while `calls` engine calls are held, and wait for the worker."""
    worker = threading.Thread(target=served.service.process, args=(ref,), kwargs={"owner": "w"})
    worker.start()
    for _ in range(calls):
        assert engine.waiting.acquire(timeout=WAIT_S)
    answered = served.service.cancel(ref)
    worker.join(WAIT_S)
    assert not worker.is_alive()
    assert answered.task.status is Status.CANCELLED
    return served.get(ref)


def test_a_cancelled_queued_task_is_never_started(served: Served) -> None:
    ref = served.submit()

    for _ in range(2):
        assert served.service.cancel(ref).task.status is Status.CANCELLED
    served.work()

    assert (served.get(ref).task.rev, served.engine.calls) == (2, [])
    assert (served.service.sweep(), served.service.metrics()["success_rate"]) == (0, None)


def test_a_plan_that_waits_for_approval_can_be_cancelled(served: Served) -> None:
    use(served, planning(a_plan({"a": ""})))
    ref = served.submit(mode=Mode.PLAN, plan_approval=True)
    served.work()

    served.service.cancel(ref)

    assert (served.get(ref).task.status, served.get(ref).task.awaits_approval) == (Status.CANCELLED, False)


@pytest.mark.parametrize("ends", ["Hello.", ValueError])
def test_a_final_task_cannot_be_cancelled(served: Served, ends: Any) -> None:
    use(served, ScriptedEngine("Hello." if ends == "Hello." else EngineUnavailable("Busy.")))
    ref = served.submit()
    for _ in range(9):
        served.work()
        served.clock.pass_s(400)
    before = served.get(ref)
    assert before.task.status.is_final

    with pytest.raises(StateConflict, match=before.task.status):
        served.service.cancel(ref)
    assert served.get(ref) == before


def test_an_unknown_task_cannot_be_cancelled(served: Served) -> None:
    with pytest.raises(TaskNotFound):
        served.service.cancel(TaskRef("local", "unknown"))


def test_the_call_in_progress_is_broken_off_and_stays_on_the_receipt(served: Served) -> None:
    """It is recorded as a failed call, because the cost of half an answer is unknown. No other engine is called."""
    engine = HeldEngine("held")
    served.engine = engine
    served.use(a_catalog({"only": an_engine(), "other": a_local_engine()}))
    ref = served.submit("Please be held")

    snapshot = cancelled_while(served, engine, ref)

    assert (snapshot.task.status, snapshot.task.owner, snapshot.result) == (Status.CANCELLED, "", None)
    assert [a.error for a in snapshot.attempts] == ["The task was cancelled."]
    assert snapshot.task.receipt.failed_calls == len(engine.calls) == 1
    assert served.store.engines().states == {}
    assert served.queue.depth() <= 1


def test_calls_that_ran_in_parallel_with_a_cancelled_step_stay_on_the_receipt(served: Served) -> None:
    """Plan and step a are answered, step a only after the cancel; step b is broken off."""
    let_go = threading.Event()

    def late(call: EngineCall) -> Answer:
        engine.waiting.release()
        assert let_go.wait(WAIT_S)
        return "late"

    script = planning(a_plan({"a": "", "b": "", "c": "ab"}), a="did a")
    script._answers[0] = _with_late(script._answers[0], late)
    engine = HeldEngine("\nb", script=script)
    use(served, engine)
    ref = served.submit(mode=Mode.PLAN, profile="General")
    threading.Timer(0.5, let_go.set).start()

    snapshot = cancelled_while(served, engine, ref, calls=2)

    purposes = sorted((a.purpose, a.error is None) for a in snapshot.attempts)
    assert purposes == [("plan", True), ("step a", True), ("step b", False)]
    assert snapshot.task.receipt.cost_microusd == 2 * 50
    assert served.service.metrics()["api_costs"] == 100 / 1_000_000
    assert key_texts(snapshot.outputs) == ["PLAN", "TRY#1"]


def _with_late(script: Any, late: Callable[[EngineCall], Answer]) -> Callable[[EngineCall], Answer]:
    def answer(call: EngineCall) -> Answer:
        if call.prompt.endswith("\na") and not call.answer_schema:
            return late(call)
        given: Answer = script(call)
        return given

    return answer


def test_an_answer_that_arrives_after_the_cancel_is_charged_and_not_shown(served: Served) -> None:
    """The task is cancelled between the answer and the final save."""

    def answer(_: EngineCall) -> Answer:
        served.service.cancel(ref)
        return "Too late."

    use(served, ScriptedEngine(answer))
    ref = served.submit()
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.status, snapshot.result) == (Status.CANCELLED, None)
    assert (snapshot.task.receipt.calls, snapshot.task.receipt.cost_microusd) == (1, 50)


def test_a_cancelled_call_shows_its_time_and_its_tokens_as_far_as_they_are_known(served: Served) -> None:
    """The time until the abort, and an estimate of the input. The engine may bill the call, so its worst case stays
    set aside.
    """

    def held(_: EngineCall) -> Answer:
        served.clock.pass_s(60)
        served.service.cancel(ref)
        return TaskCancelled()

    use(served, ScriptedEngine(held))
    ref = served.submit(limits=Limits(max_cost_usd=1))
    served.work()

    snapshot = served.get(ref)
    (attempt,) = snapshot.attempts
    assert (snapshot.task.status, attempt.failure) == (Status.CANCELLED, "cancelled")
    assert (attempt.duration_ms, attempt.usage_estimated) == (60_000, True)
    assert 0 < attempt.tokens_in < 1_000
    assert (attempt.tokens_out, attempt.cost_microusd) == (0, 0)
    assert attempt.withheld_microusd > 8_000, "the price of 4,096 output tokens"


def test_the_cancel_counts_the_answer_of_a_dead_worker(served: Served) -> None:
    """The answer was kept but never adopted. If the worker is alive after all, it does not count the answer again."""
    ref = served.submit()
    task = served.store.peek(ref)
    now_ms = served.clock()
    mine = task.claimed(owner="w", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
    served.store.save(task, mine)
    served.store.keep(ref, an_output())

    served.service.cancel(ref)
    assert served.get(ref).task.receipt.cost_microusd == 300
    assert served.service._worker
    served.service._worker._settlement.settle(mine, an_output().attempts)

    snapshot = served.get(ref)
    assert (snapshot.task.receipt.cost_microusd, snapshot.task.owner) == (300, "")


@pytest.mark.parametrize("took_s", [MAX_CHECK_AGE_MS / 1000 + 0.001, -3_600])
def test_a_worker_reads_the_status_before_a_call_if_its_last_read_is_old(served: Served, took_s: float) -> None:
    """Another process cancels during a call that takes over 5 s: the worker does not call the second engine.

    The same holds if the duration is unknown because the clock was set back.
    """

    def slow(_: EngineCall) -> Answer:
        served.clock.pass_s(took_s)
        served.store.save(task := served.store.peek(ref), task.cancelled(now_ms=served.clock()))
        return EngineUnavailable("Busy.")

    served.engine = ScriptedEngine(slow)
    served.use(a_catalog({"only": an_engine(), "other": a_local_engine()}))
    ref = served.submit()
    served.work()

    snapshot = served.get(ref)
    assert [a.error for a in snapshot.attempts] == ["Busy."]
    assert len(served.engine.calls) == 1


def test_a_worker_does_not_read_the_status_soon_after_a_save(served: Served) -> None:
    """A save reveals a cancel too, so ordinary tasks need no extra reads, even if each engine call takes 4 s."""
    looks: list[TaskRef] = []
    peek = served.store.peek

    def counting(ref: TaskRef) -> Any:
        looks.append(ref)
        return peek(ref)

    served.store.peek = counting  # type: ignore[method-assign]
    script = planning(a_plan({"a": "", "b": "a"}))

    def slow(call: EngineCall) -> Answer:
        served.clock.pass_s(4)
        return script.complete(call, timeout_s=1)

    use(served, ScriptedEngine(slow))
    for mode in (Mode.CHAT, Mode.PLAN):
        served.submit(mode=mode)
    served.work()

    assert looks == []
    assert all(served.get(ref).task.status is Status.COMPLETED for ref in served.refs)


def test_the_cost_of_an_empty_answer_is_counted_when_the_task_is_cancelled(served: Served) -> None:
    def empty(_: EngineCall) -> Answer:
        served.service.cancel(ref)
        return a_completion("")

    use(served, ScriptedEngine(empty))
    ref = served.submit()
    served.work()

    assert (served.get(ref).task.status, served.get(ref).task.receipt.cost_microusd) == (Status.CANCELLED, 50)


def test_a_call_broken_off_although_the_task_is_not_cancelled_is_made_again(served: Served) -> None:
    """If the cancellation was a mistake, the step does not fail and the task continues."""
    use(served, planning(a_plan({"a": ""}), a=[TaskCancelled(), "did a"]))
    ref = served.submit(mode=Mode.PLAN, profile="General")
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.status, snapshot.task.receipt.failed_calls) == (Status.COMPLETED, 1)
