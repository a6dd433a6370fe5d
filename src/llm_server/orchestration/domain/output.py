"""The output of one piece of a task's work: a text or an error, and the engine calls that were made for it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.receipt import Attempt

MAX_TEXTS_BYTES = 4_000_000
"""How many bytes a task's texts may have together: result, plan, steps' results, drafts and findings of reviews.

They are counted as JSON in UTF-8, so that all of them fit into one answer of the API function (lambda_api.py).
"""


class Review(Struct, frozen=True, kw_only=True):
    """The result of a step's review.

    `findings` are those that are not repaired. `reason` says why the review ended early; None if it did not.
    """

    verdict: Literal["pass", "fail", "not judged"]
    findings: tuple[str, ...] = ()
    reason: str | None = None


class OutputKind(StrEnum):
    """The kind of an output: the piece of a task's work that it is. The stores use their own words for the kinds."""

    TRIAGE = "triage"
    """What an engine decided about mode and role, as JSON; stored before every other output, if at all."""
    PLAN = "plan"
    """The plan, as JSON."""
    DRAFT = "draft"
    """A step's result that must still be judged; `number` counts its repairs, from 0."""
    VERDICT = "verdict"
    """The findings of a review in a draft; `number` is the draft's number."""
    STEP = "step"
    """The end of a step: its result, or the reason why it failed."""
    ANSWER = "answer"
    """The final answer of one claim, stored before the task is Completed; `number` is the claim's fence."""
    TRY = "try"
    """The engine calls of a claim that ended without an answer; `number` is the claim's fence."""
    OTHER = "other"
    """A kind that a newer version added. Its calls count; `step` is the text of its key."""


_ORDER = {OutputKind.TRIAGE: -1, OutputKind.PLAN: 0, OutputKind.DRAFT: 1, OutputKind.VERDICT: 1, OutputKind.STEP: 2}


class OutputKey(Struct, frozen=True):
    """The key of an output within its task: its kind, the step it belongs to, and a number (see `OutputKind`)."""

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
        """Whether the output ends a whole claim, and is not a part of a plan."""
        return self.kind in (OutputKind.ANSWER, OutputKind.TRY)

    @property
    def order(self) -> tuple[int, int, bool]:
        """The sort key within one millisecond: triage, plan, each draft and its verdict, steps, the end of a claim."""
        draft = self.number if self.kind in (OutputKind.DRAFT, OutputKind.VERDICT) else 0
        return _ORDER.get(self.kind, 3), draft, self.kind is OutputKind.VERDICT


PLAN = OutputKey(OutputKind.PLAN)
TRIAGE = OutputKey(OutputKind.TRIAGE)


class Output(Struct, frozen=True, kw_only=True):
    """The output of one piece of work: a text or an error, and every engine call that was made for it.

    `fence` is the claim that wrote it, `rev` the revision of the state that was saved with it. It is 0 for an answer,
    which can be stored before its state, and in records of older versions. `tool_calls` are what an answer asks the
    caller to call; its text may be empty then. If a failed step is done again after a
    retry, its output is replaced, and the new one keeps the earlier attempts.
    """

    key: OutputKey
    created_ms: int
    text: str | None = None
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()
    review: Review | None = None
    fence: int = 0
    rev: int = 0
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def size(self) -> int:
        """The size in bytes of all texts, also of function calls, as JSON strings without their quotation marks."""
        findings = self.review.findings if self.review else ()
        texts = [self.text or "", *findings]
        texts += [text for call in self.tool_calls for text in (call.call_id, call.name, call.arguments)]
        return sum(len(msgspec.json.encode(text)) - len('""') for text in texts)

    def within(self, left: int, *, key: OutputKey) -> Output:
        """Return this output if it fits into the `left` bytes; otherwise an error under `key`, with the same calls."""
        if self.size <= left:
            return self
        size = f"The answer has {self.size:,} bytes as JSON"
        error = f"{size}, but only {max(left, 0):,} of the task's {MAX_TEXTS_BYTES:,} are left."
        return replace(self, key=key, text=None, error=error, review=None, tool_calls=())

    @property
    def fault(self) -> str | None:
        """The fault that the answer gate found in the text; None if it found none, or if there is no text."""
        last = last_answered(self.attempts)
        return last.fault if last and self.text is not None else None

    @property
    def is_answer(self) -> bool:
        return self.key.kind is OutputKind.ANSWER

    def as_a_try(self) -> Output:
        """Return the output that ends the answer's claim with the calls of the answer, but without its text."""
        return Output(key=OutputKey.of_try(self.key.number), created_ms=self.created_ms, attempts=self.attempts)

    def after(self, earlier: Output | None) -> Output:
        """Return this output with the attempts of an earlier one, which it replaces under the same key."""
        return replace(self, attempts=earlier.with_ends(earlier.rev).attempts + self.attempts) if earlier else self

    def at_rev(self, rev: int) -> Output:
        """Return this output as it is stored with the state that has this revision."""
        return self if self.is_answer else replace(self, rev=rev)

    def with_ends(self, rev: int) -> Output:
        """Return this output with the numbers of the events that ended its calls, as a save with `rev` shows them.

        Without a revision, nothing is changed.
        """
        if not rev:
            return self
        attempts, place = list[Attempt](), event_numbers.CALL_ENDS
        for attempt in self.attempts:
            if attempt.end_number:
                attempts.append(attempt)
                continue
            attempts.append(replace(attempt, end_number=event_numbers.number(rev, place)))
            place += 1
        return replace(self, attempts=tuple(attempts))


def last_answered(attempts: Iterable[Attempt]) -> Attempt | None:
    """Return the last call that answered; None if no call did."""
    answered = [attempt for attempt in attempts if attempt.answered]
    return answered[-1] if answered else None
