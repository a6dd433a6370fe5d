"""The review of a plan's steps: verdicts, fixes, a bounded number of rounds, and no call paid twice."""

from __future__ import annotations

import json

import pytest

from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.output import Review
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.execution.review import (
    MAX_FINDING_CHARS,
    MAX_FINDINGS,
    Verdict,
    VerdictInvalid,
    parse,
    schema,
)
from support.builders import key_texts, output_key
from support.deliveries import Deliveries, a_plan, accepted, changed, planning
from support.scripted_engine import Answer, Clock, ScriptedEngine, WatchedStore, a_catalog

BUSY = EngineUnavailable("The engine is busy.")
REFUSED = PromptRefused("Too long.")
PASS = '{"verdict": "pass", "findings": []}'
ONE = a_plan({"a": ""})
FIX_ENDS_WITH = "it replaces the old one."


def fails(*findings: str) -> str:
    return json.dumps({"verdict": "fail", "findings": findings})


def a_developers_task(profile: str = "Developer", **asked: object) -> Snapshot:
    return changed(accepted(Mode.PLAN, "Planner-Agent", **asked), profile=profile)  # type: ignore[arg-type]


def judging(*verdicts: Answer, fixes: list[Answer] | None = None, plan: str = ONE) -> ScriptedEngine:
    """Return an engine that plans, works, and gives these verdicts and these fixes in turn."""
    fixes = fixes or ["first fix", "second fix"]
    prompt = f"Repair every finding, and answer with the whole repaired result: {FIX_ENDS_WITH}"
    answers: dict[str, list[Answer]] = {"verdict": list(verdicts), prompt: fixes}
    return planning(plan, synthesis="Final.", **answers)


def reviewed(watched: WatchedStore, clock: Clock, engine: ScriptedEngine) -> tuple[Deliveries, Snapshot]:
    deliveries = Deliveries(watched, clock, engine)
    return deliveries, deliveries.deliver(a_developers_task())


# The verdict


@pytest.mark.parametrize("text", [PASS, f"Sure:\n```json\n{PASS}\n```", f'{{"a": 1}} {PASS}', '{"verdict": "pass"}'])
def test_a_verdict_is_found_in_the_answer(text: str) -> None:
    assert parse(text) == Verdict(verdict="pass")


def test_a_failure_names_what_was_found() -> None:
    assert parse(fails(" Off by one. ", "  ", "No test.")).findings == ("Off by one.", "No test.")


def test_a_pass_has_no_findings() -> None:
    """A remark in a pass is not repaired."""
    assert parse('{"verdict": "pass", "findings": ["Nice."]}') == Verdict(verdict="pass")


def test_findings_are_bounded() -> None:
    """They are part of a prompt and of a record."""
    findings = parse(fails(*["x" * 5_000] * 100)).findings

    assert (len(findings), len(findings[0])) == (MAX_FINDINGS, MAX_FINDING_CHARS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Looks good!", "[]", "{}", '{"verdict": "maybe", "findings": []}', '{"verdict": "fail", "findings": []}'),
        *('{"verdict": "fail", "findings": "all"}', '{"verdict": "fail", "findings": [" "]}', "{" * 5_000),
        '{"verdict": "fail", "findings": ["\\ud800"]}',
    ],
)
def test_what_cannot_be_acted_on_is_no_verdict(text: str) -> None:
    with pytest.raises(VerdictInvalid):
        parse(text)


# The rounds


def test_a_result_that_passes_is_the_steps(watched: WatchedStore, clock: Clock) -> None:
    """The judge gets the instruction, the result and the schema of a verdict."""
    deliveries, ended = reviewed(watched, clock, judging(PASS))

    assert deliveries.purposes == ["plan", "step a", "verdict a", "synthesis"]
    assert deliveries.keys == [
        "PLAN",
        "DRAFT#a#0",
        "STEP#a",
        "RES#1",
    ]
    assert (ended.outputs[output_key("STEP#a")].text, ended.review("a")) == ("did a", Review(verdict="pass"))
    call = deliveries.engine.calls[2]
    assert call.answer_schema is not None
    assert (call.answer_schema.name, call.answer_schema.schema) == ("verdict", schema())
    assert call.system == a_catalog({}).roles["QA-Agent"].system_prompt
    assert "<result>\ndid a\n</result>" in call.prompt
    assert ended.result == "Final."


def test_findings_are_repaired_and_judged_again(watched: WatchedStore, clock: Clock) -> None:
    """The fix becomes the step's result, also for the steps that depend on it."""
    deliveries, ended = reviewed(watched, clock, judging(fails("Off by one."), PASS))

    assert deliveries.purposes == ["plan", "step a", "verdict a", "fix a", "verdict a", "synthesis"]
    assert (ended.outputs[output_key("STEP#a")].text, ended.review("a")) == ("first fix", Review(verdict="pass"))
    fix, judged, synthesis = deliveries.engine.calls[3:]
    assert fix.system == a_catalog({}).roles["Debug-Agent"].system_prompt
    assert "<findings>\n- Off by one.\n</findings>" in fix.prompt
    assert "<result>\nfirst fix\n</result>" in judged.prompt
    assert "first fix" in synthesis.prompt
    assert ended.task.receipt.calls == len(deliveries.engine.calls) == 6


def test_after_two_rounds_open_findings_are_said(watched: WatchedStore, clock: Clock) -> None:
    """They are in the step and below the final answer, whatever the synthesis writes."""
    deliveries, ended = reviewed(watched, clock, judging(fails("One."), fails("Two."), fails("Three.")))

    assert deliveries.purposes.count("fix a") == 2
    assert deliveries.purposes.count("verdict a") == 3
    assert ended.review("a") == Review(verdict="fail", findings=("Three.",))
    assert ended.outputs[output_key("STEP#a")].text == "second fix"
    assert ended.task.status is Status.COMPLETED
    said = "Left open by the review:\nStep a (Fast-Coder-Agent) has open findings:\n- Three."
    assert ended.result == f"Final.\n\n{said}"


@pytest.mark.parametrize("answer", ["Looks good to me.", REFUSED], ids=["unusable", "refused"])
def test_a_verdict_that_cannot_be_had_is_said(watched: WatchedStore, clock: Clock, answer: Answer) -> None:
    """The result is kept, but is not shown as passed."""
    _, ended = reviewed(watched, clock, judging(answer))

    review = ended.review("a")
    assert review is not None
    assert (review.verdict, ended.outputs[output_key("STEP#a")].text) == ("not judged", "did a")
    assert "Step a (Fast-Coder-Agent) was not judged (" in str(ended.result)


@pytest.mark.parametrize("fix", [" \n", REFUSED], ids=["empty", "refused"])
def test_a_fix_that_cannot_be_had_leaves_the_findings_open(watched: WatchedStore, clock: Clock, fix: Answer) -> None:
    """The coder's draft is the result."""
    _, ended = reviewed(watched, clock, judging(fails("One."), fixes=[fix]))

    review = ended.review("a")
    assert review is not None
    assert (review.verdict, review.findings, ended.outputs[output_key("STEP#a")].text) == ("fail", ("One.",), "did a")
    assert review.reason in (str(REFUSED), "The engine's answer is empty.")


def test_only_reviewed_roles_of_a_profile_with_a_judge_are_judged(watched: WatchedStore, clock: Clock) -> None:
    """The catalogue says which roles are reviewed."""
    writing = Deliveries(watched, clock, judging(PASS, plan=a_plan({"a": ""}, role="Writing-Agent")))
    general = Deliveries(watched, clock, judging(PASS))

    writing.deliver(a_developers_task())
    general.deliver(a_developers_task("General"))
    gone = Deliveries(watched, clock, judging(PASS))
    gone.deliver(a_developers_task("Gone"))
    assert writing.purposes == general.purposes == gone.purposes == ["plan", "step a", "synthesis"]


def test_a_coder_that_fails_is_not_judged(watched: WatchedStore, clock: Clock) -> None:
    deliveries = Deliveries(watched, clock, planning(ONE, a=REFUSED))

    assert deliveries.deliver(a_developers_task()).task.error == "Step a failed: Too long."


def test_the_review_stays_within_max_cost_usd(watched: WatchedStore, clock: Clock) -> None:
    """A verdict that the task cannot afford is not requested; the reason names the limit."""
    engine = planning(ONE, a="x" * 20_000)
    deliveries = Deliveries(watched, clock, engine)
    ended = deliveries.deliver(a_developers_task(limits=Limits(max_cost_usd=0.017)))

    review = ended.review("a")
    assert review is not None
    assert review.verdict == "not judged"
    assert "max_cost_usd" in str(review.reason)


# Going on in a later delivery

TWO = a_plan({"a": "", "b": "a"})
CALLS = ["plan", "step a", "verdict a", "fix a", "verdict a", "step b", "verdict b", "synthesis"]


@pytest.mark.parametrize("stored", range(8))
def test_a_worker_that_dies_after_any_state_of_a_review_costs_no_second_call(
    watched: WatchedStore, clock: Clock, stored: int
) -> None:
    """Drafts and verdicts are stored as they arrive, so each call is made exactly once."""
    deliveries = Deliveries(watched, clock, judging(fails("One."), PASS, plan=TWO))
    dead = deliveries.deliver(a_developers_task(), dies_after=stored)
    clock.pass_s(210)

    ended = dead if dead.task.status.is_final else deliveries.deliver(dead)

    assert ended.task.status is Status.COMPLETED
    assert sorted(attempt.purpose for attempt in ended.attempts) == sorted(CALLS)
    assert len(deliveries.engine.calls) == ended.task.receipt.calls == len(CALLS)
    assert ended.outputs[output_key("STEP#a")].text == "first fix"


def test_a_worker_that_dies_again_and_again_ends_the_review_all_the_same(watched: WatchedStore, clock: Clock) -> None:
    """Each delivery stores one state only."""
    deliveries = Deliveries(watched, clock, judging(fails("One."), PASS, plan=TWO))
    snapshot = a_developers_task()
    while not snapshot.task.status.is_final:
        snapshot = deliveries.deliver(snapshot, dies_after=1)
        clock.pass_s(210)

    assert [attempt.purpose for attempt in snapshot.attempts] == CALLS


def test_a_judge_that_cannot_be_reached_is_waited_for(watched: WatchedStore, clock: Clock) -> None:
    """The draft is kept while the task waits."""
    deliveries = Deliveries(watched, clock, judging(BUSY, PASS))
    waiting = deliveries.deliver(a_developers_task())
    assert (waiting.task.status, key_texts(waiting.outputs)) == (Status.QUEUED, ["DRAFT#a#0", "PLAN", "TRY#1"])
    clock.pass_s(5)

    ended = deliveries.deliver(waiting)
    assert (ended.review("a"), deliveries.purposes) == (Review(verdict="pass"), ["verdict a", "synthesis"])


def test_a_draft_whose_profile_lost_its_judge_is_said_to_be_not_judged(watched: WatchedStore, clock: Clock) -> None:
    """The configuration changed between two deliveries; no other role judges instead."""
    deliveries = Deliveries(watched, clock, judging(PASS))
    drafted = deliveries.deliver(a_developers_task(), dies_after=2)
    clock.pass_s(210)

    ended = deliveries.deliver(changed(drafted, profile="General"))

    review = ended.review("a")
    assert review is not None
    assert (review.verdict, deliveries.purposes) == ("not judged", ["synthesis"])
