"""What a task tells of the faults that the answer gate found in the texts it still has."""

from __future__ import annotations

from llm_server.orchestration.domain.errors import EngineUnavailable
from llm_server.orchestration.domain.status import Mode
from support.builders import a_snapshot, a_task, an_attempt, an_output, claimed, output_key
from support.deliveries import Deliveries, a_plan, accepted, changed, planning
from support.scripted_engine import Answer, Clock, ScriptedEngine, WatchedStore, a_catalog, an_engine

FAST, STRONG = an_engine(tier="fast"), an_engine(tier="strong")
REFUSAL = "I'm sorry, but I can't assist with that."
FIX_ENDS_WITH = "it replaces the old one."
PASS, FAIL = '{"verdict": "pass", "findings": []}', '{"verdict": "fail", "findings": ["It is empty."]}'


def cheap_only(watched: WatchedStore, clock: Clock, engine: ScriptedEngine) -> Deliveries:
    return Deliveries(watched, clock, engine, catalog=a_catalog({"only": FAST}))


def with_strong(watched: WatchedStore, clock: Clock, cheap: ScriptedEngine, strong: Answer) -> Deliveries:
    catalog = a_catalog({"only": FAST, "strong": STRONG})
    return Deliveries(watched, clock, cheap, catalog=catalog, strong=(STRONG, ScriptedEngine(strong)))


def test_a_task_tells_the_fault_of_its_result(watched: WatchedStore, clock: Clock) -> None:
    """With one engine, no other one can be asked."""
    assert cheap_only(watched, clock, ScriptedEngine(REFUSAL)).deliver(accepted()).fault == "a refusal"
    assert cheap_only(watched, clock, ScriptedEngine("Done.")).deliver(accepted()).fault is None


def test_a_repaired_fault_is_not_told(watched: WatchedStore, clock: Clock) -> None:
    """The strong engine's answer is the result. If that engine fails, the faulty answer is, and its fault is told."""
    cheap, down = ScriptedEngine(REFUSAL), EngineUnavailable("Busy.")

    assert with_strong(watched, clock, cheap, "Done.").deliver(accepted()).fault is None
    assert with_strong(watched, clock, cheap, down).deliver(accepted()).fault == "a refusal"


def test_an_open_and_a_failed_task_tell_no_fault() -> None:
    """They have no result."""
    answer = an_output(attempts=(an_attempt(fault="a refusal"),))
    processing = claimed(a_task())

    assert a_snapshot(processing, None, answer).fault is None
    assert a_snapshot(processing.completed(answer), None, answer).fault == "a refusal"


def test_a_plan_tells_the_faults_of_steps_and_synthesis_apart(watched: WatchedStore, clock: Clock) -> None:
    """The result may be sound although a step is not, and the reverse."""
    plan = a_plan({"a": "", "b": "a"}, role="Writing-Agent")
    asked = accepted(Mode.PLAN, "Planner-Agent")

    step = cheap_only(watched, clock, planning(plan, a=REFUSAL)).deliver(asked)
    synthesis = cheap_only(watched, clock, planning(plan, synthesis=REFUSAL)).deliver(asked)

    assert (step.fault, step.step_fault("a"), step.step_fault("b")) == (None, "a refusal", None)
    assert (synthesis.fault, synthesis.step_fault("a"), synthesis.step_fault("b")) == ("a refusal", None, None)


def test_a_reviewed_step_tells_the_fault_of_its_last_draft(watched: WatchedStore, clock: Clock) -> None:
    """A verdict is not the step's result, and a repaired draft replaces the faulty one."""
    plan = a_plan({"a": ""})
    asked = changed(accepted(Mode.PLAN, "Planner-Agent"), profile="Developer")
    fix: dict[str, Answer] = {
        f"Repair every finding, and answer with the whole repaired result: {FIX_ENDS_WITH}": "Done."
    }

    passed = cheap_only(watched, clock, planning(plan, a=REFUSAL, verdict=PASS)).deliver(asked)
    repaired = cheap_only(watched, clock, planning(plan, a=REFUSAL, verdict=[FAIL, PASS], **fix)).deliver(asked)

    assert (passed.step_fault("a"), passed.outputs[output_key("STEP#a")].text) == ("a refusal", REFUSAL)
    assert (repaired.step_fault("a"), repaired.outputs[output_key("STEP#a")].text) == (None, "Done.")
