"""The plan an engine proposes for a task: its shape, how it is checked, and which steps may run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from llm_server.orchestration.answers import json_objects
from llm_server.orchestration.errors import LLMServerError

MAX_STEPS = 12

_Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]


class PlanInvalid(LLMServerError):
    """The engine's plan cannot be carried out; the message says what to repair."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work for one role, after the steps it depends on."""

    id: _Id
    role: str
    instruction: Annotated[str, msgspec.Meta(min_length=1)]
    depends_on: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and 1 to 12 steps without a cycle."""

    goal: str
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


def schema(roles: Collection[str]) -> dict[str, Any]:
    """The JSON schema of a plan, for engines that can be held to one."""
    step = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "role": {"type": "string", "enum": sorted(roles)},
            "instruction": {"type": "string"},
            "depends_on": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["id", "role", "instruction", "depends_on"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "goal": {"type": "string"},
            "steps": {"type": "array", "items": step, "minItems": 1, "maxItems": MAX_STEPS},
        },
        "required": ["goal", "steps"],
        "additionalProperties": False,
    }


def parse(text: str, roles: Collection[str]) -> Plan:
    """Read a plan out of an engine's answer, which may wrap it in prose or a code fence.

    Of several JSON objects the first with the shape of a plan is taken.

    Raises:
        PlanInvalid: no JSON object in it, wrong shape, unknown role, duplicate or dangling id, or a cycle.
    """
    plan = _first_plan(text)
    faults = list(_faults(plan, roles))
    if faults:
        raise PlanInvalid(" ".join(faults))
    return plan


def stored(text: str) -> Plan:
    """Read a plan back that was checked before it was stored."""
    return msgspec.json.decode(text, type=Plan)


def digest(text: str) -> str:
    """The hash of a stored plan, by which a caller names the plan that was seen."""
    return sha256(text.encode()).hexdigest()


def ready(plan: Plan, finished: Mapping[str, bool], running: Collection[str] = ()) -> list[Step]:
    """The steps that may start now. `finished` tells of each ended step whether it succeeded."""
    return [
        step
        for step in plan.steps
        if step.id not in finished and step.id not in running and all(finished.get(d, False) for d in step.depends_on)
    ]


class StepStatus(StrEnum):
    """How far a step is: to be done, under way, done, failed, or never to be done."""

    WAITING = "Waiting"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    SKIPPED = "Skipped"


def statuses(
    plan: Plan, finished: Mapping[str, bool], *, at_work: bool, is_final: bool = False
) -> dict[str, StepStatus]:
    """Each step's status, from those that ended (and whether they succeeded) and whether a worker has the task.

    Running is derived, not stored: all it depends on is done and a worker has the task. Skipped is what depends on a
    failed step, directly or not, and in a final task everything that has not ended.
    """
    known = {name: StepStatus.COMPLETED if good else StepStatus.FAILED for name, good in finished.items()}
    may_start = {step.id for step in ready(plan, finished)}
    stopped = {name for name, good in finished.items() if not good}
    for _ in plan.steps:
        stopped |= {step.id for step in plan.steps if stopped & set(step.depends_on)}
    for step in plan.steps:
        if step.id in stopped or is_final:
            known.setdefault(step.id, StepStatus.SKIPPED)
        known.setdefault(step.id, StepStatus.RUNNING if at_work and step.id in may_start else StepStatus.WAITING)
    return known


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
    for step in plan.steps:
        if step.role not in roles:
            yield f"Step {step.id} has the unknown role {step.role[:60]!r}; known are {', '.join(sorted(roles))}."
        for dependency in step.depends_on:
            if dependency not in ids:
                yield f"Step {step.id} depends on {dependency[:60]!r}, which is no step."
    if _has_cycle(plan):
        yield "The steps depend on one another in a circle."


def _is_unicode(plan: Plan) -> bool:
    try:
        plan.to_json()
    except UnicodeEncodeError:
        return False
    return True


def _has_cycle(plan: Plan) -> bool:
    """Kahn's algorithm: take away what depends on nothing that is left, until nothing changes."""
    left = {step.id: set(step.depends_on) for step in plan.steps}
    left = {key: depends & left.keys() for key, depends in left.items()}
    while free := [key for key, depends in left.items() if not depends & left.keys()]:
        for key in free:
            del left[key]
    return bool(left)
