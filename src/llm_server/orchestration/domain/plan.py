"""A task's plan: its steps, which of them can start, and the status of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Annotated

import msgspec

MAX_STEPS = 12

STEP_ID_PATTERN = r"^[A-Za-z0-9_-]{1,32}$"
"""As JSON Schema reads it: `$` is the end of the text. In Python it also stands before a newline at the end."""

STEP_DEMAND = "Do this step and nothing else, and answer with its result:"
"""The line above the instruction, which ends the prompt of a step."""

SYNTHESIS_DEMAND = "Write the final answer to the task."
"""The line that ends the prompt of the synthesis."""

_Id = Annotated[str, msgspec.Meta(pattern=STEP_ID_PATTERN.removesuffix("$") + r"\Z")]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work for one role. It starts when the steps that it depends on have ended."""

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


def from_json(text: str) -> Plan:
    """Decode a stored plan. Its steps were checked before it was stored."""
    return msgspec.json.decode(text, type=Plan)


def digest(text: str) -> str:
    """Return the hash of a stored plan. Callers send it to say which plan they approve."""
    return sha256(text.encode()).hexdigest()


def ready(plan: Plan, finished: Mapping[str, bool], running: Collection[str] = ()) -> list[Step]:
    """Return the steps that can start now. `finished` says for each ended step whether it succeeded."""
    return [
        step
        for step in plan.steps
        if step.id not in finished and step.id not in running and all(finished.get(d, False) for d in step.depends_on)
    ]


class StepStatus(StrEnum):
    """The progress of a step. A Skipped step will never be done."""

    WAITING = "Waiting"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    SKIPPED = "Skipped"


def statuses(
    plan: Plan, finished: Mapping[str, bool], *, at_work: bool, is_final: bool = False
) -> dict[str, StepStatus]:
    """Return each step's status. `finished` says for each ended step whether it succeeded.

    The other statuses are derived. A step is Running if a worker has the task (`at_work`) and all steps that it depends
    on are done. A step is Skipped if it depends on a failed step, directly or not, or if the task `is_final`.
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
