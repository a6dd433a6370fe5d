"""The schema of plans that engines are held to says what the parser accepts, except for what a schema cannot say."""

from __future__ import annotations

import json
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.plan import MAX_STEPS
from llm_server.orchestration.execution.plan_proposal import (
    MAX_DEPENDENCIES,
    MAX_GOAL_CHARS,
    MAX_INSTRUCTION_CHARS,
    PlanInvalid,
    parse,
    schema,
)

ROLES = ("Coder", "Writer")
VALIDATOR = jsonschema_rs.validator_for(schema(ROLES))
IDS = ("s1", "a-b_C", "x" * 32, "x" * 33, "", "a b", "é", "s1\n", "\n", "٣", "s1,")
LENGTHS = (0, 1, 2, MAX_GOAL_CHARS, MAX_GOAL_CHARS + 1, MAX_INSTRUCTION_CHARS, MAX_INSTRUCTION_CHARS + 1)

Change = Callable[[dict[str, Any]], None]


def a_plan(count: int) -> dict[str, Any]:
    """Return a valid plan whose steps depend on all steps before them."""
    steps = [
        {"id": f"s{n}", "role": "Coder", "instruction": "Do it.", "depends_on": [f"s{m}" for m in range(n)]}
        for n in range(count)
    ]
    return {"goal": "A goal.", "steps": steps}


def is_accepted(plan: Any) -> bool:
    try:
        parse(json.dumps(plan), ROLES)
    except PlanInvalid:
        return False
    return True


def is_sound(plan: dict[str, Any]) -> bool:
    """Return whether a plan meets what a schema cannot say: unique ids, known dependencies, no circle."""
    ids = [step["id"] for step in plan["steps"]]
    known = all(dependency in ids for step in plan["steps"] for dependency in step["depends_on"])
    try:
        TopologicalSorter({step["id"]: step["depends_on"] for step in plan["steps"]}).prepare()
    except CycleError:
        return False
    return known and len(set(ids)) == len(ids)


def set_goal(length: int) -> Change:
    return lambda plan: plan.update(goal="ü" * length)


def set_step(at: int, field: str, value: Any) -> Change:
    def change(plan: dict[str, Any]) -> None:
        if plan["steps"]:
            plan["steps"][at % len(plan["steps"])][field] = value

    return change


def add_dependencies(at: int, dependencies: list[str]) -> Change:
    def change(plan: dict[str, Any]) -> None:
        if plan["steps"]:
            step = plan["steps"][at % len(plan["steps"])]
            step["depends_on"] = [*(step["depends_on"] or []), *dependencies]  # an earlier change may have made it null

    return change


STEP = st.integers(0, MAX_STEPS)
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(set_goal, st.sampled_from(LENGTHS)),
    st.builds(lambda at, length: set_step(at, "instruction", "🧪" * length), STEP, st.sampled_from(LENGTHS)),
    st.builds(lambda at, name: set_step(at, "id", name), STEP, st.sampled_from(IDS) | st.text(max_size=40)),
    st.builds(lambda at, name: set_step(at, "role", name), STEP, st.sampled_from([*ROLES, "coder", ""])),
    st.builds(add_dependencies, STEP, st.lists(st.sampled_from([*IDS, "s0"]), max_size=2)),
    st.builds(lambda at, count: set_step(at, "depends_on", ["s0"] * count), STEP, st.integers(0, MAX_STEPS + 1)),
    st.builds(lambda at: set_step(at, "depends_on", None), STEP),
)


@given(count=st.integers(0, MAX_STEPS + 2), changes=st.lists(CHANGES, max_size=2))
def test_the_parser_takes_what_the_schema_takes_and_a_schema_cannot_rule_out(count: int, changes: list[Change]) -> None:
    """An engine that obeys the schema is never asked again for an id, a length or a number of steps."""
    plan = a_plan(count)
    for change in changes:
        change(plan)
    takes = VALIDATOR.is_valid(plan)

    assert is_accepted(plan) == (takes and is_sound(plan))


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        (set_goal(MAX_GOAL_CHARS), True),
        (set_goal(MAX_GOAL_CHARS + 1), False),
        (set_step(0, "instruction", "🧪" * MAX_INSTRUCTION_CHARS), True),
        (set_step(0, "instruction", "x" * (MAX_INSTRUCTION_CHARS + 1)), False),
        (set_step(0, "instruction", ""), False),
        (set_step(0, "id", "x" * 32), True),
        (set_step(0, "id", "x" * 33), False),
        (set_step(0, "id", "a b"), False),
        (set_step(0, "id", "a\n"), False),
        (set_step(0, "role", "Hacker"), False),
        (set_step(1, "depends_on", ["s0"] * MAX_DEPENDENCIES), True),
        (set_step(1, "depends_on", ["s0"] * (MAX_DEPENDENCIES + 1)), False),
        (set_step(1, "depends_on", ["no id"]), False),
        (lambda plan: plan.update(a_plan(MAX_STEPS)), True),
        (lambda plan: plan.update(a_plan(MAX_STEPS + 1)), False),
        (lambda plan: plan.update(a_plan(0)), False),
    ],
)
def test_both_agree_at_each_limit(change: Change, is_valid: bool) -> None:
    plan = a_plan(2)
    plan["steps"][1]["depends_on"] = []
    change(plan)

    assert (VALIDATOR.is_valid(plan), is_accepted(plan)) == (is_valid, is_valid)


@pytest.mark.parametrize(
    "change",
    [
        set_step(1, "id", "s0"),
        set_step(1, "depends_on", ["s9"]),
        set_step(0, "depends_on", ["s1"]),
    ],
    ids=["same id", "unknown step", "circle"],
)
def test_only_the_parser_can_refuse_these(change: Change) -> None:
    plan = a_plan(2)
    change(plan)

    assert (VALIDATOR.is_valid(plan), is_accepted(plan)) == (True, False)


def test_the_parser_forgives_engines_that_are_not_held_to_the_schema() -> None:
    """The schema demands every field and no others, as OpenAI's strict mode does."""
    with_more, with_less = a_plan(1), a_plan(1)
    with_more["title"] = "More."
    del with_less["steps"][0]["depends_on"]

    for plan in (with_more, with_less):
        assert (VALIDATOR.is_valid(plan), is_accepted(plan)) == (False, True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (set_goal(MAX_GOAL_CHARS + 1), "The goal has more than 1000 characters."),
        (set_step(0, "instruction", "x" * 2_000), "The instruction of step s0 has more than 1900 characters."),
        (set_step(1, "depends_on", ["s0"] * 500), "Step s1 has more than 11 dependencies."),
    ],
)
def test_what_is_too_long_is_named_and_not_repeated(change: Change, fault: str) -> None:
    """The message goes back to the planner."""
    plan = a_plan(2)
    change(plan)

    with pytest.raises(PlanInvalid) as refused:
        parse(json.dumps(plan), ROLES)
    assert fault in str(refused.value)
    assert len(str(refused.value)) < 200
