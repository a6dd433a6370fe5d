"""What one piece of a task's work gave: a text or an error, and the engine calls it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import msgspec

from llm_server.orchestration.domain.receipt import Attempt

MAX_TEXTS_BYTES = 4_000_000
"""What a task's texts may have in all: its result, its plan, its steps' results, their drafts and what reviews found.

Counted as JSON in UTF-8, as they are read: then what is stored fits into an answer of the API function (lambda_api.py).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the review of a step came to: `findings` are those left open, `reason` why it could go no further."""

    verdict: Literal["pass", "fail", "not judged"]
    findings: tuple[str, ...] = ()
    reason: str | None = None


class OutputKind(StrEnum):
    """Which piece of a task's work an output is; the stores have words of their own for these."""

    PLAN = "plan"
    """The plan, as JSON."""
    DRAFT = "draft"
    """A step's result that is still to be judged; `number` counts its repairs, from 0."""
    VERDICT = "verdict"
    """What a review found in a draft; `number` is that draft's."""
    STEP = "step"
    """The end of a step: its result, or why it failed."""
    ANSWER = "answer"
    """The final answer of one claim, stored before the task is Completed; `number` is the claim's fence."""
    TRY = "try"
    """The engine calls of a claim that ended without an answer; `number` is the claim's fence."""
    OTHER = "other"
    """A kind that a newer version added. Its calls count; `step` is the text it is stored under."""


_ORDER = {OutputKind.PLAN: 0, OutputKind.DRAFT: 1, OutputKind.VERDICT: 1, OutputKind.STEP: 2}


@dataclass(frozen=True, slots=True)
class OutputKey:
    """The name of an output within its task: its kind, the step it belongs to, and a number (see `OutputKind`)."""

    kind: OutputKind
    step: str = ""
    number: int = 0

    @classmethod
    def of_step(cls, step_id: str) -> OutputKey:
        return cls(OutputKind.STEP, step_id)

    @classmethod
    def of_draft(cls, step_id: str, number: int) -> OutputKey:
        return cls(OutputKind.DRAFT, step_id, number)

    @classmethod
    def of_verdict(cls, step_id: str, number: int) -> OutputKey:
        return cls(OutputKind.VERDICT, step_id, number)

    @classmethod
    def of_answer(cls, fence: int) -> OutputKey:
        return cls(OutputKind.ANSWER, number=fence)

    @classmethod
    def of_try(cls, fence: int) -> OutputKey:
        return cls(OutputKind.TRY, number=fence)

    @property
    def ends_claim(self) -> bool:
        """Whether it is what a whole claim came to, not a part of a plan."""
        return self.kind in (OutputKind.ANSWER, OutputKind.TRY)

    @property
    def order(self) -> tuple[int, int, bool]:
        """Sorts outputs of one millisecond: the plan, drafts and verdicts in turn, steps, the end of a claim."""
        in_turn = self.number if self.kind in (OutputKind.DRAFT, OutputKind.VERDICT) else 0
        return _ORDER.get(self.kind, 3), in_turn, self.kind is OutputKind.VERDICT


PLAN = OutputKey(OutputKind.PLAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one piece of work gave: a text or an error, and every engine call it took.

    `fence` is the claim that wrote it. A failed step that is done again after a retry is written anew, with its earlier
    attempts.
    """

    key: OutputKey
    created_ms: int
    text: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    review: Review | None = None
    fence: int = 0

    @property
    def size(self) -> int:
        """Bytes of the text and of what a review found, as JSON: a quote or a line end has 2, other controls 6."""
        texts = (self.text or "", *(self.review.findings if self.review else ()))
        return sum(len(msgspec.json.encode(text)) - len('""') for text in texts)

    def within(self, left: int, *, key: OutputKey) -> Output:
        """This output, or under `key` the failure that its text is larger than the `left` bytes; its calls stay."""
        if self.size <= left:
            return self
        size = f"The answer has {self.size:,} bytes as JSON"
        error = f"{size}; {max(left, 0):,} of the {MAX_TEXTS_BYTES:,} of a task are left."
        return replace(self, key=key, text=None, error=error, review=None)

    @property
    def is_answer(self) -> bool:
        return self.key.kind is OutputKind.ANSWER

    def as_a_try(self) -> Output:
        """What an answer cost, without it, as the end of its claim."""
        return Output(key=OutputKey.of_try(self.key.number), created_ms=self.created_ms, attempts=self.attempts)

    def after(self, earlier: Output | None) -> Output:
        """This output in place of an earlier one under its key, whose attempts stay."""
        return replace(self, attempts=earlier.attempts + self.attempts) if earlier else self


def last_engine(attempts: Iterable[Attempt]) -> str | None:
    """The engine of the last call that answered."""
    return next((a.engine for a in reversed(list(attempts)) if a.answered), None)
