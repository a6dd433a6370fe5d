"""The JSON schema that the planner's answer must follow, and the parsing and checking of the plan in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from llm_server.orchestration.answer_gate.json_objects import json_objects
from llm_server.orchestration.domain.errors import LLMServerError
from llm_server.orchestration.domain.plan import MAX_STEPS, STEP_ID_PATTERN, Plan

MAX_GOAL_CHARS = 1_000
MAX_INSTRUCTION_CHARS = 1_900
"""Below 2,000: llama.cpp takes a longer maximum for no maximum, and some of its versions refuse the schema."""

MAX_DEPENDENCIES = MAX_STEPS - 1


class PlanInvalid(LLMServerError):
    """The proposed plan cannot be carried out; the message says what to repair."""


def schema(roles: Collection[str]) -> dict[str, Any]:
    """Return the JSON schema of a plan, for engines that accept a schema for their answer.

    `parse` refuses every id, role, length and number that the schema refuses. It also refuses what a schema cannot
    express: two steps with one id, a dependency on a step that is not in the plan, steps in a circle.
    """
    step_id = {"type": "string", "pattern": STEP_ID_PATTERN}
    step = {
        "type": "object",
        "properties": {
            "id": step_id,
            "role": {"type": "string", "enum": sorted(roles)},
            "instruction": {"type": "string", "minLength": 1, "maxLength": MAX_INSTRUCTION_CHARS},
            "depends_on": {"type": "array", "items": step_id, "maxItems": MAX_DEPENDENCIES},
        },
        "required": ["id", "role", "instruction", "depends_on"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "goal": {"type": "string", "maxLength": MAX_GOAL_CHARS},
            "steps": {"type": "array", "items": step, "minItems": 1, "maxItems": MAX_STEPS},
        },
        "required": ["goal", "steps"],
        "additionalProperties": False,
    }


def parse(text: str, roles: Collection[str]) -> Plan:
    """Read a plan from an engine's answer, which may wrap it in prose or a code fence.

    If the answer has several JSON objects, the first one with the shape of a plan is used.

    Raises:
        PlanInvalid: the answer has no plan, or the plan has an unknown role, a duplicate or unknown step id, a cycle,
            too many dependencies, or a text that is too long or not valid Unicode.
    """
    plan = _first_plan(text)
    faults = list(_faults(plan, roles))
    if faults:
        raise PlanInvalid(" ".join(faults))
    return plan


def _first_plan(text: str) -> Plan:
    wrong: msgspec.ValidationError | None = None
    for found in json_objects(text):
        try:
            return msgspec.convert(found, Plan)
        except msgspec.ValidationError as error:
            wrong = wrong or error
    if wrong is None:
        raise PlanInvalid("The answer holds no JSON object.")
    raise PlanInvalid(f"The plan has the wrong shape: {wrong}.") from wrong


def _faults(plan: Plan, roles: Collection[str]) -> Iterator[str]:
    ids = [step.id for step in plan.steps]
    if len(set(ids)) < len(ids):
        yield "Step ids must be unique."
    if not _is_unicode(plan):
        yield "The texts must be valid Unicode, without half a surrogate pair."
    if len(plan.goal) > MAX_GOAL_CHARS:
        yield f"The goal has more than {MAX_GOAL_CHARS} characters."
    for step in plan.steps:
        if len(step.instruction) > MAX_INSTRUCTION_CHARS:
            yield f"The instruction of step {step.id} has more than {MAX_INSTRUCTION_CHARS} characters."
        if len(step.depends_on) > MAX_DEPENDENCIES:
            yield f"Step {step.id} has more than {MAX_DEPENDENCIES} dependencies."
        if step.role not in roles:
            yield f"Step {step.id} has the unknown role {step.role[:60]!r}; known are {', '.join(sorted(roles))}."
        for dependency in step.depends_on[:MAX_DEPENDENCIES]:
            if dependency not in ids:
                yield f"Step {step.id} depends on {dependency[:60]!r}, which is not a step of the plan."
    if _has_cycle(plan):
        yield "The steps depend on one another in a circle."


def _is_unicode(plan: Plan) -> bool:
    try:
        plan.to_json()
    except UnicodeEncodeError:
        return False
    return True


def _has_cycle(plan: Plan) -> bool:
    try:
        TopologicalSorter({step.id: step.depends_on for step in plan.steps}).prepare()
    except CycleError:
        return True
    return False
