"""The demonstration engine asks its model only for what it can do: a short answer, and a step without its context."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.engines.embedded import EmbeddedEngine
from llm_server.engines.local.demonstration import JUDGES_NOTHING, MAX_RESULTS_CHARS, DemonstrationEngine
from llm_server.orchestration.domain.engines.call import AnswerSchema, Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import PromptRefused
from llm_server.orchestration.domain.plan import Plan, Step
from llm_server.orchestration.execution import plan_proposal, prompts, review
from llm_server.orchestration.execution.prompts import StepResult
from llm_server.orchestration.routing.analysis import analyse
from support.scripted_engine import ScriptedEngine

ROLES = ["Debug-Agent", "Fast-Coder-Agent", "QA-Agent", "Writing-Agent"]
CALL = EngineCall(
    system="You are a poet. Be brief.", messages=user("Write a poem."), max_output_tokens=1_024, temperature=0.6
)
FIRST = Step(id="s1", role="Writing-Agent", instruction="Name three fruits")
SECOND = Step(id="s2", role="Writing-Agent", instruction="Write a sentence about each", depends_on=("s1",))
PLAN = Plan(goal="Fruits.", steps=(FIRST, SECOND))
TASK = "Name three fruits, then write a sentence about each."


def asked(call: EngineCall, *answers: str) -> tuple[Completion, list[EngineCall]]:
    """Make a call; return the completion, and the calls that the model got."""
    model = ScriptedEngine(*answers)
    completion = DemonstrationEngine(model, EmbeddedEngine(analyse)).complete(call, timeout_s=5)
    return completion, model.calls


def planning(task: str, max_output_tokens: int = 1_024) -> EngineCall:
    schema = AnswerSchema(name="plan", schema=plan_proposal.schema(ROLES))
    return replace(
        CALL,
        messages=user(f"Plan this.\n\n<task>\n{task}\n</task>"),
        answer_schema=schema,
        max_output_tokens=max_output_tokens,
    )


def test_an_answer_has_no_system_text_of_ours_and_at_most_256_tokens() -> None:
    """The model loops under longer texts. At temperature 0 the same prompt gets the same answer."""
    completion, [call] = asked(CALL, "Roses are red.")

    assert completion.text == "Roses are red."
    assert (call.system, call.prompt, call.max_output_tokens, call.temperature) == ("", "Write a poem.", 256, 0.0)


def test_a_lower_limit_of_the_caller_is_kept() -> None:
    _, [call] = asked(replace(CALL, max_output_tokens=40), "Roses.")

    assert call.max_output_tokens == 40


def test_a_step_is_its_instruction_and_the_results_that_it_needs() -> None:
    """The goal and the task would make the model do the whole task."""
    first = prompts.for_step(TASK, PLAN, FIRST, {})
    second = prompts.for_step(TASK, PLAN, SECOND, {"s1": StepResult(FIRST, "Apple, pear, plum.")})

    assert asked(replace(CALL, messages=user(first)), "x")[1][0].prompt == "Name three fruits"
    assert (
        asked(replace(CALL, messages=user(second)), "x")[1][0].prompt
        == "Apple, pear, plum.\n\nWrite a sentence about each"
    )


def test_a_step_fits_into_the_context_however_long_its_results_are() -> None:
    steps = tuple(replace_id(FIRST, n) for n in range(11))
    last = Step(id="last", role="Writing-Agent", instruction="Sum up", depends_on=tuple(step.id for step in steps))
    results = {step.id: StepResult(step, "word " * 4_000) for step in steps}
    prompt = prompts.for_step(TASK, Plan(goal="g", steps=(*steps, last)), last, results)

    _, [call] = asked(replace(CALL, messages=user(prompt)), "x")

    assert len(call.prompt) <= MAX_RESULTS_CHARS + 11 * len("\n\n") + len("Sum up")
    assert call.prompt.endswith("\n\nSum up")


def replace_id(step: Step, number: int) -> Step:
    return Step(id=f"s{number}", role=step.role, instruction=step.instruction)


def test_a_plan_is_what_the_analysis_saw() -> None:
    """The model is not asked, so no tokens are used."""
    completion, calls = asked(planning(TASK))

    plan = plan_proposal.parse(completion.text, ROLES)
    assert [step.instruction for step in plan.steps] == ["Name three fruits", "Write a sentence about each"]
    assert plan.steps[1].depends_on == ("s1",)
    assert (calls, completion.usage) == ([], Usage())


def test_the_longest_plan_is_whole_whatever_the_limit_of_the_task_is() -> None:
    task = ", then ".join(f"write {'long ' * 70}text {n}" for n in range(12))
    completion, _ = asked(planning(task, max_output_tokens=16))

    assert len(plan_proposal.parse(completion.text, ROLES).steps) == 12
    assert not completion.truncated


def test_the_synthesis_joins_the_results_of_the_steps() -> None:
    results = {"s1": StepResult(FIRST, "Apple, pear, plum."), "s2": StepResult(SECOND, "All are sweet.")}
    completion, calls = asked(replace(CALL, messages=user(prompts.for_synthesis(TASK, PLAN, results))))

    assert completion.text == (
        "Name three fruits\n\nApple, pear, plum.\n\nWrite a sentence about each\n\nAll are sweet."
    )
    assert (calls, completion.usage) == ([], Usage())


def test_a_draft_is_not_judged() -> None:
    """So the step says "not judged". A pass would not be true."""
    schema = AnswerSchema(name="verdict", schema=review.schema())

    with pytest.raises(PromptRefused, match=JUDGES_NOTHING):
        asked(replace(CALL, answer_schema=schema), "{}")


def test_the_model_avoids_repetitions() -> None:
    """It loops without: a small engine has a repetition penalty and end marks."""
    assert EngineSpec(kind="demonstration", source="local", model="smollm2-135m").is_small
