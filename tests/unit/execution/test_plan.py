"""A plan is read from any text around it, and all its faults are named before a step is paid for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.plan import (
    MAX_STEPS,
    Plan,
    Step,
    ready,
    statuses,
    stored,
)
from llm_server.orchestration.execution.plan_proposal import PlanInvalid, parse, schema

ROLES = ("Coder", "Writer")


def a_step(step_id: str = "a", *depends_on: str, **changes: Any) -> dict[str, Any]:
    return {"id": step_id, "role": "Coder", "instruction": "Do it.", "depends_on": list(depends_on)} | changes


def a_plan(*steps: dict[str, Any]) -> str:
    return json.dumps({"goal": "A goal.", "steps": list(steps or [a_step()])})


TWO = a_plan(a_step("a"), a_step("b", "a", role="Writer"))


@pytest.mark.parametrize(
    "answer",
    [
        TWO,
        f"\ufeff\n{TWO}\n",
        f"Sure! Here is the plan:\n```json\n{TWO}\n```\nShall I begin?",
        f"```\n{TWO}```",
        f"I use {{curly}} and {{{{double}}}} braces, and if (x) {{ y }}: {TWO}",
        f'First an example, {{"like": {{"this": [1]}}}}, then {{}}. The plan: {TWO} {{"and": "more"}}',
        f'An unclosed one {{"goal": {{"steps": {TWO}',
    ],
    ids=["bare", "byte order mark", "fenced", "bare fence", "braces", "other objects", "unclosed"],
)
def test_a_plan_is_found_in_what_engines_write_round_it(answer: str) -> None:
    """Few engines can be made to answer with JSON alone."""
    plan = parse(answer, ROLES)

    assert [(step.id, step.role, step.depends_on) for step in plan.steps] == [
        ("a", "Coder", ()),
        ("b", "Writer", ("a",)),
    ]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "no JSON object"),
        ("I cannot plan this.", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("{" * 100_000, "no JSON object"),
        ('{"a":' * 100_000, "no JSON object"),
        ('{"goal": ' + "1" * 5_000 + "}", "no JSON object"),
        ("{}", "wrong shape"),
        ('{"goal": "g", "steps": {}}', "wrong shape"),
        ('{"goal": null, "steps": []}', "wrong shape"),
        (json.dumps({"goal": "g", "steps": []}), "wrong shape"),
        (a_plan(*(a_step(f"s{n}") for n in range(MAX_STEPS + 1))), "wrong shape"),
        (a_plan(*(a_step(f"s{n}") for n in range(1_000))), "wrong shape"),
        (a_plan(a_step(instruction="")), "wrong shape"),
        (a_plan(a_step("a b")), "wrong shape"),
        (a_plan(a_step("")), "wrong shape"),
        (a_plan(a_step("a\n")), "wrong shape"),
        (a_plan(a_step("x" * 33)), "wrong shape"),
        (a_plan(a_step("a", role="Hacker")), "unknown role 'Hacker'; known are Coder, Writer"),
        (a_plan(a_step("a"), a_step("a")), "ids must be unique"),
        (a_plan(a_step("a", "z")), "depends on 'z', which is not a step of the plan"),
        (a_plan(a_step("a", "a")), "in a circle"),
        (a_plan(a_step("a", "b"), a_step("b", "c"), a_step("c", "a")), "in a circle"),
        (a_plan(a_step("a"), a_step("b", "a", "c"), a_step("c", "b")), "in a circle"),
        (a_plan(a_step(instruction="\ud800")), "valid Unicode"),
    ],
)
def test_a_broken_plan_is_refused_with_what_to_repair(answer: str, fault: str) -> None:
    """The message goes back to the engine. No text makes the parser fail in another way."""
    with pytest.raises(PlanInvalid, match=fault):
        parse(answer, ROLES)


def test_every_fault_is_named_at_once() -> None:
    """The engine gets only one chance to repair the plan."""
    with pytest.raises(PlanInvalid) as refused:
        parse(a_plan(a_step("a", "z", role="Hacker"), a_step("a", "a")), ROLES)

    for part in ("unique", "Hacker", "'z'"):
        assert part in str(refused.value)


def test_a_long_foreign_name_is_not_repeated_in_full() -> None:
    """It is the engine's own text, inserted into a prompt."""
    with pytest.raises(PlanInvalid) as refused:
        parse(a_plan(a_step("a", "z" * 5_000, role="r" * 5_000)), ROLES)

    assert len(str(refused.value)) < 400


@given(st.text(max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    """An engine may answer with any text."""
    with pytest.raises(PlanInvalid):
        parse(text, ROLES)


def test_a_stored_plan_reads_back() -> None:
    """The next delivery continues from it."""
    plan = parse(TWO, ROLES)

    assert stored(plan.to_json()) == plan


def test_the_schema_allows_what_parsing_takes() -> None:
    """An engine that follows the schema can only break rules that a schema cannot express."""
    described = schema(ROLES)
    step = described["properties"]["steps"]["items"]

    assert described["properties"]["steps"]["maxItems"] == MAX_STEPS
    assert step["properties"]["role"]["enum"] == ["Coder", "Writer"]
    assert set(step["required"]) == {"id", "role", "instruction", "depends_on"}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Generate plans without a cycle, with their steps in any order."""
    ids = [f"s{n}" for n in range(draw(st.integers(1, MAX_STEPS)))]
    steps = [
        a_step(name, *draw(st.sets(st.sampled_from(ids[:n])) if n else st.just(set()))) for n, name in enumerate(ids)
    ]
    return parse(a_plan(*draw(st.permutations(steps))), ROLES)


@given(plans(), st.data())
def test_a_schedule_respects_dependencies_and_ends(plan: Plan, data: st.DataObject) -> None:
    """In whatever order steps finish, each runs once, after the steps it depends on."""
    finished: dict[str, bool] = {}
    running: set[str] = set()
    for _ in range(2 * len(plan.steps)):
        for step in ready(plan, finished, running):
            assert all(finished[name] for name in step.depends_on)
            assert step.id not in finished
            running.add(step.id)
        if not running:
            break
        ended = data.draw(st.sampled_from(sorted(running)))
        running.remove(ended)
        finished[ended] = True

    assert finished == {step.id: True for step in plan.steps}


@given(plans(), st.data())
def test_a_failed_step_blocks_only_the_steps_that_depend_on_it(plan: Plan, data: st.DataObject) -> None:
    """The other steps are still useful."""
    failing = data.draw(st.sampled_from([step.id for step in plan.steps]))
    cut = {failing}
    for _ in plan.steps:
        cut |= {step.id for step in plan.steps if cut & set(step.depends_on)}
    finished: dict[str, bool] = {}
    while free := ready(plan, finished):
        finished |= {step.id: step.id != failing for step in free}

    assert set(finished) == {step.id for step in plan.steps} - cut | {failing}


@pytest.mark.parametrize(
    ("at_work", "is_final", "expected"),
    [
        (True, False, "Completed Failed Running Waiting Skipped Skipped"),
        (False, False, "Completed Failed Waiting Waiting Skipped Skipped"),
        (False, True, "Completed Failed Skipped Skipped Skipped Skipped"),
    ],
    ids=["a worker has it", "it waits for one", "it has ended"],
)
def test_each_step_tells_how_far_it_is(at_work: bool, is_final: bool, expected: str) -> None:
    """A failed step stops only its descendants, in whatever order the planner listed them."""
    depends_on = {"a": "", "b": "", "c": "a", "d": "c", "y": "x", "x": "b"}
    steps = (Step(id=n, role="Coder", instruction=n, depends_on=tuple(d)) for n, d in depends_on.items())
    plan = Plan(goal="g", steps=tuple(steps))

    found = statuses(plan, {"a": True, "b": False}, at_work=at_work, is_final=is_final)

    assert [found[step.id].value for step in plan.steps] == expected.split()
