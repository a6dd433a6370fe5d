"""A task's plan: its steps, which of them may run, and how far each is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Annotated

import msgspec

MAX_STEPS = 12

_Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]


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
