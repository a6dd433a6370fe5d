"""A cancelled task: wherever it is, it ends, its engine calls end, and what they cost stays on its receipt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llm_server.orchestration.domain.cancellation import MAX_CHECK_AGE_MS
from llm_server.orchestration.domain.engine_call import Completion, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, StateConflict, TaskCancelled, TaskNotFound
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import an_output, key_texts
from support.deliveries import a_plan, planning
from support.scripted_engine import WAIT_S, Answer, ScriptedEngine, a_catalog, a_completion, a_local_engine, an_engine
from support.scripted_service import LEASE_S, Served


class HeldEngine(ScriptedEngine):
    """Answers at once but for prompts that end in a word of `held`: those wait until they are cancelled."""

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
        raise AssertionError("nobody cancelled the call")


def use(served: Served, engine: ScriptedEngine, **defaults: Any) -> None:
    served.engine = engine
    served.use(a_catalog({"only": an_engine()}, **defaults))


def cancelled_while(served: Served, engine: HeldEngine, ref: TaskRef, calls: int = 1) -> Snapshot:
    """Let a worker have the task, cancel it while so many of its calls are held, and wait for the worker."""
    worker = threading.Thread(target=served.service.process, args=(ref,), kwargs={"owner": "w"})
    worker.start()
    for _ in range(calls):
        assert engine.waiting.acquire(timeout=WAIT_S)
    answered = served.service.cancel(ref)
    worker.join(WAIT_S)
    assert not worker.is_alive()
    assert answered.task.status is Status.CANCELLED
    return served.get(ref)


def test_a_queued_task_is_cancelled_and_never_begun(served: Served) -> None:
    ref = served.submit()

    for _ in range(2):
        assert served.service.cancel(ref).task.status is Status.CANCELLED
    served.work()

    assert (served.get(ref).task.rev, served.engine.calls) == (2, [])
    assert (served.service.sweep(), served.service.metrics()["success_rate"]) == (0, None)


def test_a_plan_that_waits_for_its_callers_word_is_cancelled(served: Served) -> None:
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


def test_a_running_call_ends_and_stays_on_the_receipt(served: Served) -> None:
    """As a failed call: nobody knows what an engine charges for half an answer. No other engine is asked."""
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


def test_what_ran_beside_a_cancelled_step_is_paid_on_the_receipt(served: Served) -> None:
    """Three steps at once: one answered before, one is broken off, one answers although it was told to end."""
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


def test_an_answer_that_came_too_late_is_paid_for_and_not_shown(served: Served) -> None:
    """The cancel came between the answer and the finish."""

    def answer(_: EngineCall) -> Answer:
        served.service.cancel(ref)
        return "Too late."

    use(served, ScriptedEngine(answer))
    ref = served.submit()
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.status, snapshot.result) == (Status.CANCELLED, None)
    assert (snapshot.task.receipt.calls, snapshot.task.receipt.cost_microusd) == (1, 50)


def test_an_answer_of_a_dead_worker_is_counted_by_the_cancel(served: Served) -> None:
    """Kept, but never taken up. Its worker, should it live after all, does not count it again."""
    ref = served.submit()
    task = served.store.peek(ref)
    now_ms = served.clock()
    mine = task.claimed(owner="w", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
    served.store.save(task, mine)
    served.store.keep(ref, an_output())

    served.service.cancel(ref)
    assert served.get(ref).task.receipt.cost_microusd == 300
    served.service._worker._settlement.settle(mine, an_output().attempts)

    snapshot = served.get(ref)
    assert (snapshot.task.receipt.cost_microusd, snapshot.task.owner) == (300, "")


@pytest.mark.parametrize("took_s", [MAX_CHECK_AGE_MS / 1000 + 0.001, -3_600])
def test_a_worker_elsewhere_looks_before_a_call_when_its_last_look_is_old(served: Served, took_s: float) -> None:
    """Cancelled by another process: the second engine is not asked when the first one took more than 5 s.

    Nor when nobody knows how long it took, for the clock was set back meanwhile.
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


def test_a_look_is_not_taken_when_a_save_has_just_told(served: Served) -> None:
    """The usual task costs no call more, even where each engine call takes 4 s."""
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


def test_what_an_empty_answer_cost_is_counted_too(served: Served) -> None:
    def empty(_: EngineCall) -> Answer:
        served.service.cancel(ref)
        return a_completion("")

    use(served, ScriptedEngine(empty))
    ref = served.submit()
    served.work()

    assert (served.get(ref).task.status, served.get(ref).task.receipt.cost_microusd) == (Status.CANCELLED, 50)


def test_a_call_broken_off_without_a_cancel_is_no_failed_step(served: Served) -> None:
    """Should a look have been mistaken, the task goes on where it was."""
    use(served, planning(a_plan({"a": ""}), a=[TaskCancelled(), "did a"]))
    ref = served.submit(mode=Mode.PLAN, profile="General")
    served.work()

    snapshot = served.get(ref)
    assert (snapshot.task.status, snapshot.task.receipt.failed_calls) == (Status.COMPLETED, 1)
