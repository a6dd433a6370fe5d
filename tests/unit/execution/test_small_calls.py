"""Calls to small engines: a short system prompt and a low output limit, for each kind of call."""

from __future__ import annotations

import msgspec
import pytest

from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.execution import prompts
from llm_server.orchestration.execution.output_limits import MIN_STRUCTURED_TOKENS, output_limit
from support.deliveries import Deliveries, a_plan, accepted, changed, planning
from support.scripted_engine import Answer, Clock, ScriptedEngine, WatchedStore, a_catalog, an_engine

SMALL = a_catalog({"only": an_engine(small=True)})
REVIEWED = ['{"verdict": "fail", "findings": ["No."]}', '{"verdict": "pass", "findings": []}']
PLAN, VERDICT = AnswerSchema(name="plan", schema={}), AnswerSchema(name="verdict", schema={})


def short(role: str) -> str | None:
    return SMALL.roles[role].short_prompt


@pytest.mark.parametrize("name", list(SMALL.roles))
def test_a_small_engine_gets_the_short_prompt_of_every_role(watched: WatchedStore, clock: Clock, name: str) -> None:
    deliveries = Deliveries(watched, clock, ScriptedEngine("Done."), catalog=SMALL)
    deliveries.deliver(accepted(Mode.AGENT, name))

    (call,) = deliveries.engine.calls
    assert (call.system, call.prompt, call.max_output_tokens) == (short(name), "Build it.", 1024)


def test_a_role_without_a_short_prompt_keeps_its_own(watched: WatchedStore, clock: Clock) -> None:
    role = msgspec.structs.replace(SMALL.roles["Chat-Agent"], short_prompt=None)
    catalog = msgspec.structs.replace(SMALL, roles={**SMALL.roles, "Chat-Agent": role})
    deliveries = Deliveries(watched, clock, ScriptedEngine("Done."), catalog=catalog)
    deliveries.deliver(accepted())

    assert deliveries.engine.calls[0].system == role.system_prompt


def test_the_calls_of_a_plan_are_short_too(watched: WatchedStore, clock: Clock) -> None:
    """Plan, step, verdict, fix and synthesis."""
    deliveries = Deliveries(watched, clock, a_planner(), catalog=SMALL)
    task = accepted(Mode.PLAN, "Planner-Agent")
    deliveries.deliver(changed(task, profile="Developer"))

    assert {call.system for call in deliveries.engine.calls} == {
        short("Planner-Agent"),
        short("Fast-Coder-Agent"),
        short("QA-Agent"),
        short("Debug-Agent"),
        prompts.SHORT_SYNTHESIS_SYSTEM,
    }
    assert {call.max_output_tokens for call in deliveries.engine.calls} == {1024}
    assert deliveries.purposes[0] == "plan"
    assert len(deliveries.engine.calls) == 6


def a_planner() -> ScriptedEngine:
    """Return an engine that plans one step, finds a fault in it once, and repairs it."""
    verdicts = list(REVIEWED)

    def answer(call: EngineCall) -> Answer:
        if call.answer_schema is None:
            return "Done."
        return a_plan({"a": ""}) if call.answer_schema.name == "plan" else verdicts.pop(0)

    return ScriptedEngine(answer)


def test_plans_and_verdicts_have_limits_of_their_own(watched: WatchedStore, clock: Clock) -> None:
    """Set apart from the limit of answers."""
    catalog = a_catalog(
        {"only": an_engine()}, max_output_tokens=900, plan_max_output_tokens=3000, verdict_max_output_tokens=700
    )
    deliveries = Deliveries(watched, clock, a_planner(), catalog=catalog)
    deliveries.deliver(changed(accepted(Mode.PLAN, "Planner-Agent"), profile="Developer"))

    limits = [call.max_output_tokens for call in deliveries.engine.calls]
    assert limits == [3000, 900, 700, 900, 700, 900]


@pytest.mark.parametrize(
    ("role", "schema", "callers", "usual", "small"),
    [
        ("Chat-Agent", None, None, 4096, 1024),
        ("Deep-Coder-Agent", None, None, 8192, 1024),
        (None, None, None, 4096, 1024),
        ("Planner-Agent", PLAN, None, 4096, 1024),
        ("QA-Agent", VERDICT, None, 2048, 1024),
        ("Deep-Coder-Agent", VERDICT, None, 8192, 1024),
        # The caller's limit is honoured, lower or higher.
        ("Chat-Agent", None, 7, 7, 7),
        ("Chat-Agent", None, 3000, 3000, 3000),
        ("Deep-Coder-Agent", None, 100_000, 100_000, 100_000),
        (None, None, 2000, 2000, 2000),
        # A plan or a verdict that is cut off cannot be used.
        ("Planner-Agent", PLAN, 7, MIN_STRUCTURED_TOKENS, MIN_STRUCTURED_TOKENS),
        ("Planner-Agent", PLAN, 1500, 1500, 1500),
        ("Planner-Agent", PLAN, 9000, 9000, 9000),
        ("QA-Agent", VERDICT, 7, MIN_STRUCTURED_TOKENS, MIN_STRUCTURED_TOKENS),
        ("QA-Agent", VERDICT, 1500, 1500, 1500),
    ],
)
def test_the_output_limit(
    role: str | None, schema: AnswerSchema | None, callers: int | None, usual: int, small: int
) -> None:
    """The caller's, else the role's, else that of the kind of answer; small engines get less by default."""
    asked = SMALL.roles[role] if role else None
    limits = [output_limit(SMALL.defaults, asked, schema, callers, small=is_small) for is_small in (False, True)]

    assert limits == [usual, small]


def test_a_configured_limit_below_the_minimum_of_plans_is_kept() -> None:
    """The configuration knows its engines."""
    defaults = msgspec.structs.replace(SMALL.defaults, plan_max_output_tokens=600, small_max_output_tokens=300)

    assert output_limit(defaults, None, PLAN, 7, small=False) == 600
    assert output_limit(defaults, None, PLAN, None, small=True) == 300


@pytest.mark.parametrize("callers", [7, 3000])
def test_the_callers_limit_reaches_a_small_engine(watched: WatchedStore, clock: Clock, callers: int) -> None:
    deliveries = Deliveries(watched, clock, planning(a_plan({"a": ""})), catalog=SMALL)
    deliveries.deliver(accepted(Mode.PLAN, "Planner-Agent", limits=Limits(max_output_tokens=callers)))
    deliveries.deliver(accepted(limits=Limits(max_output_tokens=callers)))

    plan, *others = [call.max_output_tokens for call in deliveries.engine.calls]
    assert plan == max(callers, MIN_STRUCTURED_TOKENS)
    assert set(others) == {callers}
