"""What one piece of a task's work gave: a text or an error, and the engine calls it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from llm_server.orchestration.domain.receipt import Attempt

TEXTS_MOST_BYTES = 4_000_000
"""What a task's texts may have in all: its result, its plan, its steps' results, their drafts and what reviews found.

Counted as JSON in UTF-8, as they are read: then what is stored fits into an answer of the API function (lambda_api.py).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the review of a step came to: `findings` are those left open, `reason` why it could go no further."""

    verdict: Literal["pass", "fail", "not judged"]
    findings: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one piece of work gave: a text or an error, and every engine call it took.

    `key` is `PLAN` (text: the plan as JSON), `STEP#<id>`, `RES#<fence>` (the final answer of one claim) or
    `TRY#<fence>` (the calls of a claim that ended without an answer). While a step is under review its results are
    `DRAFT#<id>#<n>` and the verdicts that found something `VERDICT#<id>#<n>`; `STEP#<id>` ends it. `fence` is the claim
    that wrote it; a failed step that is done again after a retry is written anew, with its earlier attempts.
    """

    key: str
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

    def within(self, left: int, *, key: str) -> Output:
        """This output, or under `key` the failure that its text is larger than the `left` bytes; its calls stay."""
        if self.size <= left:
            return self
        size = f"The answer has {self.size:,} bytes as JSON"
        error = f"{size}; {max(left, 0):,} of the {TEXTS_MOST_BYTES:,} of a task are left."
        return replace(self, key=key, text=None, error=error, review=None)

    @property
    def is_answer(self) -> bool:
        return self.key.startswith("RES#")

    def as_a_try(self) -> Output:
        """What an answer cost, without it, as the end of its claim."""
        return Output(key=f"TRY#{self.key.removeprefix('RES#')}", created_ms=self.created_ms, attempts=self.attempts)

    def after(self, earlier: Output | None) -> Output:
        """This output in place of an earlier one under its key, whose attempts stay."""
        return replace(self, attempts=earlier.attempts + self.attempts) if earlier else self

    @property
    def is_claims_end(self) -> bool:
        return self.key.startswith(("RES#", "TRY#"))


def order(key: str) -> tuple[int, str, int]:
    """Which output of one millisecond came first: plan, drafts and verdicts in turn, steps, the end of a claim."""
    kind, _, rest = key.partition("#")
    turn = rest.rpartition("#")[2] if kind in ("DRAFT", "VERDICT") else ""
    return ({"PLAN": 0, "DRAFT": 1, "VERDICT": 1, "STEP": 2}.get(kind, 3), turn, kind == "VERDICT")


def last_engine(attempts: Iterable[Attempt]) -> str | None:
    """The engine of the last call that answered."""
    return next((a.engine for a in reversed(list(attempts)) if a.answered), None)
