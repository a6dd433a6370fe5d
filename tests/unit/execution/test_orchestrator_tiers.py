"""How the answer gate and `strong_share` affect a task."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.errors import EngineUnavailable
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from support.builders import output_key
from support.deliveries import Deliveries, a_plan, accepted, planning
from support.scripted_engine import Clock, ScriptedEngine, WatchedStore, a_catalog, a_completion, an_engine

FAST, STRONG = an_engine(tier="fast"), an_engine(tier="strong")
REFUSAL = "I'm sorry, but I can't assist with that."


def deliveries(
    watched: WatchedStore, clock: Clock, cheap: ScriptedEngine, strong: ScriptedEngine, **defaults: object
) -> Deliveries:
    catalog = a_catalog({"only": FAST, "strong": STRONG}, **defaults)
    return Deliveries(watched, clock, cheap, catalog=catalog, strong=(STRONG, strong))


def escalations(snapshot: Snapshot) -> list[tuple[str, str | None]]:
    return [(attempt.engine, attempt.fault) for attempt in snapshot.attempts]


def test_a_refusal_is_escalated_and_both_calls_are_on_the_receipt(watched: WatchedStore, clock: Clock) -> None:
    """The caller gets the strong engine's answer and pays for both calls."""
    ended = deliveries(watched, clock, ScriptedEngine(REFUSAL), ScriptedEngine("Done.")).deliver(accepted())

    assert (ended.task.status, ended.result, ended.task.engine) == (Status.COMPLETED, "Done.", "strong")
    assert escalations(ended) == [("only", "a refusal"), ("strong", None)]
    assert (ended.task.receipt.calls, ended.task.receipt.cost_microusd) == (2, 100)


@pytest.mark.parametrize(("defaults", "fault"), [({"answer_gate": False}, None), ({"strong_share": 0.0}, "a refusal")])
def test_nothing_escalates_without_the_gate_and_where_nothing_may_be_strong(
    watched: WatchedStore, clock: Clock, defaults: dict[str, object], fault: str | None
) -> None:
    """The cheap answer is used. Its fault is told if the gate is on."""
    cheap, strong = ScriptedEngine(REFUSAL), ScriptedEngine("Done.")

    ended = deliveries(watched, clock, cheap, strong, **defaults).deliver(accepted())

    assert (ended.result, escalations(ended), strong.calls) == (REFUSAL, [("only", fault)], [])
    empty = deliveries(watched, clock, ScriptedEngine(" "), strong, **defaults).deliver(accepted())
    assert (empty.task.error, strong.calls) == ("The engine's answer is empty.", [])


def test_an_answer_cut_at_the_callers_own_limit_is_not_escalated(watched: WatchedStore, clock: Clock) -> None:
    """A strong engine's answer would be cut as well."""
    cut = ScriptedEngine(a_completion("It was", truncated=True))
    both = deliveries(watched, clock, cut, ScriptedEngine("Done."))

    assert both.deliver(accepted(limits=Limits(max_output_tokens=2))).result == "It was"
    assert both.deliver(accepted()).result == "Done."


def test_a_steps_answer_passes_the_gate_too_and_a_verdict_does_not(watched: WatchedStore, clock: Clock) -> None:
    """A step's answer is checked against its instruction; structured answers are checked by their readers."""
    plan = a_plan({"a": "", "b": "a"}, role="Writing-Agent")
    cheap = planning(plan, a=REFUSAL)
    strong = planning(plan, a="did it better", synthesis="All.")

    ended = deliveries(watched, clock, cheap, strong).deliver(accepted(Mode.PLAN, "Planner-Agent"))

    assert ended.outputs[output_key("STEP#a")].text == "did it better"
    assert [a.fault for a in ended.outputs[output_key("STEP#a")].attempts] == ["a refusal", None]
    assert [a.engine for a in ended.outputs[output_key("STEP#b")].attempts] == ["only"]


@pytest.mark.parametrize(
    ("share", "complexity", "engine"),
    [(1.0, 0.0, "strong"), (0.0, 1.0, "only"), (0.1, 1.0, "strong"), (0.1, 0.1, "only")],
)
def test_the_share_decides_for_every_call_of_a_task(
    watched: WatchedStore, clock: Clock, share: float, complexity: float, engine: str
) -> None:
    """It holds for planner, steps, verdicts and synthesis, whatever tier their roles have."""
    plan = a_plan({"a": "", "b": "a"})
    both = deliveries(watched, clock, planning(plan), planning(plan), strong_share=share)

    ended = both.deliver(accepted(Mode.PLAN, "Planner-Agent", complexity=complexity))

    assert ended.task.status is Status.COMPLETED
    assert {attempt.engine for attempt in ended.attempts} == {engine}


def test_what_was_withheld_is_withheld_from_later_deliveries_too(watched: WatchedStore, clock: Clock) -> None:
    """max_cost_usd limits the whole task, however often a slow engine interrupts it."""
    late = EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
    only = Deliveries(watched, clock, ScriptedEngine(late), catalog=a_catalog({"only": FAST}, max_output_tokens=100))
    waiting = accepted(limits=Limits(max_cost_usd=0.002))
    for _ in range(2):
        waiting = only.deliver(waiting)
        clock.pass_s(600)

    assert [a.withheld_microusd > 1_000 for a in waiting.attempts] == [True]
    assert "max_cost_usd" in (waiting.task.error or "")
    assert len(only.engine.calls) == 1


def test_parallel_steps_share_their_tasks_money_without_failing_each_other(watched: WatchedStore, clock: Clock) -> None:
    """Each call fits into the limit, but not all three together, so they run one after the other."""
    plan = a_plan({"a": "", "b": "", "c": ""}, role="Writing-Agent")
    deliveries = Deliveries(watched, clock, planning(plan), catalog=a_catalog({"only": an_engine()}))

    ended = deliveries.deliver(accepted(Mode.PLAN, "Planner-Agent", limits=Limits(max_cost_usd=0.02)))

    assert (ended.task.status, ended.task.error) == (Status.COMPLETED, None)


def test_without_a_usable_plan_a_task_that_waits_for_approval_is_not_done(watched: WatchedStore, clock: Clock) -> None:
    """The caller asked to see the plan first. The receipt has the cost of the planner's calls."""
    only = Deliveries(watched, clock, planning("no plan", "still none"))

    ended = only.deliver(accepted(Mode.PLAN, "Planner-Agent", plan_approval=True))

    assert ended.task.status is Status.FAILED
    assert ended.task.error == "The engines proposed no usable plan, and this task needs an approved plan."
    assert only.purposes == ["plan", "plan"]
    assert ended.task.receipt.calls == 2
