"""Calls that time out: they are not repeated blindly, their money is withheld, and the task says what to change.

A claim has 60 s for its engine calls here, six sevenths of the lease.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec
from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.errors import EngineUnavailable
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from support.deliveries import a_plan
from support.scripted_engine import Clock, ScriptedEngine, a_catalog, a_completion, a_local_engine, an_engine
from support.scripted_service import SWEEP_S, Served

WINDOW_S = 60
TIMED_OUT = EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
ONE_STEP = a_plan({"a": ""})


def is_asked_for(form: str, call: EngineCall) -> bool:
    """Return whether the call asks for a plan or a verdict, as `form` says."""
    return call.answer_schema is not None and call.answer_schema.name == form


class Engines(ScriptedEngine):
    """Takes a number of seconds for each call, as `takes_s` says, and answers "Hello.", or a plan if asked for one."""

    def __init__(self, clock: Clock, takes_s: Callable[[EngineCall], float]) -> None:
        super().__init__()
        self._clock = clock
        self._takes_s = takes_s

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        super().complete(call, timeout_s=timeout_s)
        takes_s = self._takes_s(call)
        self._clock.pass_s(min(takes_s, timeout_s))
        if takes_s > timeout_s:
            raise TIMED_OUT
        return a_completion(ONE_STEP if is_asked_for("plan", call) else "Hello.")


def slow(served: Served, takes_s: float | Callable[[EngineCall], float] = 10_000, **engines: EngineSpec) -> Engines:
    """Serve with engines that take `takes_s` seconds for each call; without any, one API engine."""
    catalog = a_catalog(engines or {"only": an_engine()})
    return using(served, catalog, takes_s if callable(takes_s) else lambda _: float(takes_s))


def using(served: Served, catalog: Catalog, takes_s: Callable[[EngineCall], float]) -> Engines:
    engine = Engines(served.clock, takes_s)
    served.engine = engine
    served.use(catalog)
    return engine


def work_for(served: Served, seconds: int) -> None:
    """Let workers and the sweep run, until no message comes for `seconds`."""
    idle_s = 0
    while idle_s < seconds:
        idle_s = 0 if served.work() else idle_s + 5
        served.clock.pass_s(5)
        served.service.sweep()


def test_a_call_that_had_the_whole_window_is_not_repeated(served: Served) -> None:
    """It was asked 8 times, each time billed, before the task failed."""
    engine = slow(served)
    ref = served.submit()
    work_for(served, SWEEP_S)
    snapshot = served.get(ref)

    assert engine.timeouts_s == [WINDOW_S]
    assert (snapshot.task.status, snapshot.task.receipt.failed_calls) == (Status.FAILED, 1)
    assert [a.withheld_microusd > 0 for a in snapshot.attempts] == [True]
    assert snapshot.task.error == (
        "Engine only did not answer in 60 s, and is not asked again. Its timeout_s is 120, and a worker waits at most "
        "60 s for a call. To allow more time, raise LLM_SERVER_LEASE_S."
    )


@pytest.mark.parametrize("timeout_s", [54, 60])
def test_nor_is_one_that_had_nearly_the_whole_window(served: Served, timeout_s: int) -> None:
    """Its own time-out is the shorter one. The rest that follows is for other tasks."""
    engine = slow(served, only=a_local_engine(timeout_s=timeout_s))
    ref = served.submit()
    work_for(served, SWEEP_S)

    assert engine.timeouts_s == [timeout_s]
    assert served.get(ref).task.status is Status.FAILED


def test_an_engine_of_a_provider_is_asked_twice_if_its_own_time_out_is_short(served: Served) -> None:
    """A repetition may succeed, but each may be billed."""
    engine = slow(served, only=an_engine(timeout_s=20))
    ref = served.submit()
    work_for(served, SWEEP_S)

    assert engine.timeouts_s == [20, 20]
    assert served.get(ref).task.error == (
        "Engine only did not answer in 20 s, and is not asked again. Its timeout_s is 20, and a worker waits at most "
        "60 s for a call. To allow more time, raise timeout_s."
    )


def test_a_local_engine_costs_nothing_and_is_asked_as_often_as_before(served: Served) -> None:
    """With many calls at a time each takes longer; the last try may be the first one with time enough."""
    engine = slow(served, only=a_local_engine(timeout_s=20))
    served.submit()
    work_for(served, SWEEP_S)

    assert engine.timeouts_s == [20] * 3


def test_another_engine_is_asked_instead(served: Served) -> None:
    """The first engine had the whole claim, so that the next claim asks the other one, at once."""
    specs = {"slow": a_local_engine(model="slow"), "other": an_engine(timeout_s=30)}
    engine = Engines(served.clock, lambda _: 10_000 if len(engine.calls) == 1 else 5)
    served.engine = engine
    served.use(a_catalog(specs))
    ref = served.submit()
    served.work()

    assert [(a.engine, a.answered) for a in served.get(ref).attempts] == [("slow", False), ("other", True)]
    assert served.get(ref).result == "Hello."


def test_the_task_waits_for_another_engine_that_rests(served: Served) -> None:
    """It does not wait for the engine that is given up, which would be ready at once."""
    specs = {"slow": a_local_engine(), "other": an_engine(tier="strong")}
    rests_until_ms = served.clock() + 300_000
    served.store.save_engine_state("other", EngineState(failures=1, rest_until_ms=rests_until_ms))
    engine = using(served, a_catalog(specs), lambda _: 10_000)
    ref = served.submit()
    served.work()
    waiting = served.get(ref).task

    assert (waiting.status, waiting.waiting_for) == (Status.QUEUED, "other")
    assert waiting.due_ms == rests_until_ms + SWEEP_S * 1000
    assert len(engine.calls) == 1


def test_without_money_for_another_engine_the_task_says_so(served: Served) -> None:
    specs = {"slow": a_local_engine(), "dear": an_engine(timeout_s=30)}
    engine = using(served, a_catalog(specs), lambda _: 10_000)
    ref = served.submit(limits=Limits(max_cost_usd=0.000_01))
    work_for(served, SWEEP_S)

    assert len(engine.calls) == 1
    assert served.get(ref).task.error == "The next engine call could cost more than is left of max_cost_usd."


def test_a_call_that_began_late_is_repeated_at_the_start_of_a_claim(served: Served) -> None:
    """The plan takes 40 s, so that the step has 20 s. In the next claim it has the 25 s that it needs.

    Then the verdict takes 25 s, so that the same happens to the synthesis.
    """
    engine = slow(served, lambda call: 40 if is_asked_for("plan", call) else 25)
    ref = served.submit(mode=Mode.PLAN)
    work_for(served, SWEEP_S)

    assert engine.timeouts_s == [60, 20, 60, 35, 10, 60]
    assert served.get(ref).task.status is Status.COMPLETED


def test_a_late_call_is_repeated_only_once(served: Served) -> None:
    engine = slow(served, lambda call: 40 if is_asked_for("plan", call) else 10_000)
    ref = served.submit(mode=Mode.PLAN, limits=Limits(max_cost_usd=1))
    work_for(served, SWEEP_S)
    snapshot = served.get(ref)

    assert engine.timeouts_s == [60, 20, 60]
    assert [a.purpose for a in snapshot.attempts] == ["plan", "step a", "step a"]
    assert [a.withheld_microusd > 0 for a in snapshot.attempts] == [False, True, True]
    assert (snapshot.task.error or "").startswith("Step a failed: Engine only did not answer in 60 s")


def test_a_plan_that_is_not_answered_in_time_is_asked_for_once(served: Served) -> None:
    engine = slow(served)
    ref = served.submit(mode=Mode.PLAN)
    work_for(served, SWEEP_S)

    assert [a.purpose for a in served.get(ref).attempts] == ["plan"]
    assert (len(engine.calls), served.get(ref).task.status) == (1, Status.FAILED)


def test_a_verdict_that_is_not_given_in_time_ends_the_review(served: Served) -> None:
    """The draft is the step's result, marked as not judged. Its synthesis follows."""

    slow(served, lambda call: 10_000 if is_asked_for("verdict", call) else 5)
    ref = served.submit(mode=Mode.PLAN, profile="Developer")
    work_for(served, SWEEP_S)
    snapshot = served.get(ref)
    review = snapshot.review("a")

    assert [a.purpose for a in snapshot.attempts] == ["plan", "step a", "verdict a", "verdict a", "synthesis"]
    assert review is not None
    assert (review.verdict, snapshot.task.status) == ("not judged", Status.COMPLETED)
    assert "did not answer in 60 s" in (review.reason or "")


def test_a_caller_may_ask_once_more(served: Served) -> None:
    """A retried task begins anew; a longer window may have been deployed."""
    engine = slow(served)
    ref = served.submit()
    work_for(served, SWEEP_S)
    served.service.retry(ref)
    work_for(served, SWEEP_S)

    assert engine.timeouts_s == [WINDOW_S] * 2


def test_an_answer_after_a_time_out_forgives_nothing_of_the_receipt(served: Served) -> None:
    """The money of the call that timed out stays withheld from the task's limit."""
    engine = Engines(served.clock, lambda _: 10_000 if len(engine.calls) == 1 else 5)
    served.engine = engine
    served.use(a_catalog({"only": an_engine(timeout_s=20)}))
    ref = served.submit(limits=Limits(max_cost_usd=1))
    work_for(served, SWEEP_S)
    snapshot = served.get(ref)

    assert [(a.answered, a.withheld_microusd > 0) for a in snapshot.attempts] == [(False, True), (True, False)]
    assert snapshot.result == "Hello."


def test_a_deadline_that_ends_a_call_is_named_as_the_reason(served: Served) -> None:
    """No longer window would have helped."""
    slow(served)
    ref = served.submit(limits=Limits(deadline_s=30))
    work_for(served, SWEEP_S)

    assert served.get(ref).task.error == "The deadline of 30 s has passed."
