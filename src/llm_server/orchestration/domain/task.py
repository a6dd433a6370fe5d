"""The task: an immutable state record whose transitions return the next one.

A final state is left by nothing but a caller's retry of a Failed task; a Cancelled one's receipt is settled (ADR 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from llm_server.orchestration.domain.api_key import Charge, Payer
from llm_server.orchestration.domain.errors import IllegalTransition, TaskBusy, TaskFinished, TaskUnapproved
from llm_server.orchestration.domain.output import Output, last_engine
from llm_server.orchestration.domain.receipt import Receipt
from llm_server.orchestration.domain.status import Mode, Status

NEVER_MS = 253_402_300_799_000
"""The end of the year 9999: when the sweep looks at a task that only its caller can move on."""


MAX_NOTES = 6
DAY_MS = 24 * 3600 * 1000
"""The sweep looks at every open task that has not changed for a day."""
NEAR_MS = 15 * 60 * 1000
"""From so long before its deadline on, a task is looked at on time, however many others merely wait (ADR 14)."""


class Note(StrEnum):
    """A move of a task that no other record tells of, by the letter it is stored as."""

    CLAIMED = "c"
    RELEASED = "r"
    WAITING = "w"
    APPROVED = "a"
    RETRIED = "t"
    OVERDUE = "o"


@dataclass(frozen=True, slots=True)
class TaskRef:
    """The name of a task: its tenant and its id; as text `<tenant>/<task_id>`."""

    tenant: str
    task_id: str

    @classmethod
    def parse(cls, text: str) -> TaskRef:
        """Read `<tenant>/<task_id>`; ValueError when it is anything else."""
        tenant, slash, task_id = text.partition("/")
        if not (tenant and slash and task_id) or "/" in task_id:
            raise ValueError("a task reference is <tenant>/<task_id>")
        return cls(tenant, task_id)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.task_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The state of a task; each transition returns the next one, with `rev` one higher.

    A store accepts a state only when it holds its predecessor (`rev - 1`), so of two writers one wins. `fence` counts
    claims, `deliveries` the claims since the last progress: both grow before the work, so a prompt that kills its
    worker ends too. `lease_ms` is when the claim ends, `due_ms` when the sweep looks at the task, both Unix
    milliseconds, as `deadline_ms` is, when the task fails if it is not final. `waiting_for` names the engines, or the
    reason, that a task waits for in an outage. Plan steps that failed in claims up to `retried_fence` are done again.
    `counted_for` is the key among whose tasks in flight it is, "" where nobody counts them; `charge` the key whose
    day its calls are charged to, None where no day has a cap. `notes` are the last 6 moves that leave no other trace,
    with their milliseconds since `created_ms`: each a `Note`, or a letter that a newer version stored. `metadata` is
    the request's; it stands in the state too, where a listing reads it.
    Invariant: `answer_fence` is set only when Completed, `error` only when Failed.
    """

    tenant: str
    task_id: str
    mode: Mode
    role: str
    profile: str
    created_ms: int
    updated_ms: int
    due_ms: int
    status: Status = Status.QUEUED
    rev: int = 1
    fence: int = 0
    deliveries: int = 0
    owner: str = ""
    lease_ms: int = 0
    finished_ms: int | None = None
    engine: str | None = None
    answer_fence: int | None = None
    error: str | None = None
    waiting_for: str = ""
    waiting_since_ms: int | None = None
    receipt: Receipt = field(default_factory=Receipt)
    approval: Literal["awaited", "given", "refused"] | None = None
    counted_for: str = ""
    charge: Charge | None = None
    deadline_ms: int | None = None
    retried_fence: int = 0
    notes: tuple[tuple[str, int], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def awaits_approval(self) -> bool:
        """Its plan is stored and waits for its caller's word; no worker has it."""
        return self.approval == "awaited" and not self.status.is_final

    @property
    def next_look_ms(self) -> int:
        """When the sweep looks at the task, as far as its state alone tells."""
        return min(self.due_ms, self.updated_ms + DAY_MS, self.deadline_ms or NEVER_MS)

    def is_near_deadline(self, at_ms: int) -> bool:
        """Whether its deadline is then near, or over: a look at that time must not be late."""
        return self.deadline_ms is not None and self.deadline_ms - at_ms <= NEAR_MS

    def is_overdue(self, now_ms: int) -> bool:
        """Its deadline has passed, and no worker has it that would see that."""
        idle = self.status is Status.QUEUED or self.awaits_approval
        return idle and self.deadline_ms is not None and now_ms >= self.deadline_ms

    @property
    def ref(self) -> TaskRef:
        return TaskRef(self.tenant, self.task_id)

    def is_suspect(self, *, now_ms: int) -> bool:
        """Whether two workers in a row have died of it, or beside it: the next one takes no other suspect with it."""
        return self.status.is_active and self.deliveries >= 2 and now_ms >= self.lease_ms

    def claimed(self, *, owner: str, now_ms: int, lease_ms: int, has_plan: bool) -> Task:
        """Give the task to one worker until `lease_ms` (Unix milliseconds).

        Raises:
            TaskFinished: the task is final.
            TaskBusy: another worker's lease has not ended.
            TaskUnapproved: its plan waits to be approved, and its deadline has not come.
        """
        if self.status.is_final:
            raise TaskFinished(self.task_id)
        if self.status.is_active and now_ms < self.lease_ms:
            raise TaskBusy(self.task_id)
        if self.awaits_approval and now_ms < self.due_ms:
            raise TaskUnapproved(self.task_id)
        return self._to(
            Status.PLANNED if has_plan else Status.PROCESSING,
            now_ms,
            fence=self.fence + 1,
            deliveries=self.deliveries + 1,
            owner=owner,
            lease_ms=lease_ms,
            waiting_for=self.waiting_for,
            waiting_since_ms=self.waiting_since_ms,
            notes=self._noted(Note.CLAIMED, now_ms),
        )

    def abandoned(self, *, now_ms: int) -> Task:
        """End the lease of a worker that is known to be dead; the task, where it is open, is due now."""
        return replace(self, rev=self.rev + 1, lease_ms=now_ms, due_ms=now_ms)

    def progressed(self, output: Output) -> Task:
        """Count a finished plan or step; the deliveries start anew, because the work moved on."""
        return self._to(Status.PLANNED, output.created_ms, deliveries=0, receipt=self.receipt.plus(output.attempts))

    def awaiting_approval(self, plan: Output, *, due_ms: int) -> Task:
        """Stop at the plan, without a worker; until `due_ms`, the task's deadline, only its caller moves it on."""
        task = self.progressed(plan)
        return replace(task, owner="", lease_ms=0, due_ms=due_ms, approval="awaited")

    def approved(self, *, now_ms: int, due_ms: int) -> Task:
        """Let the plan be carried out: back to the queue."""
        return self._to(
            Status.QUEUED, now_ms, due_ms=due_ms, approval="given", notes=self._noted(Note.APPROVED, now_ms)
        )

    def rejected(self, *, now_ms: int) -> Task:
        """End the task, as its caller wishes; a last state."""
        return self._to(Status.CANCELLED, now_ms, finished_ms=now_ms, approval="refused")

    def cancelled(self, *, now_ms: int, orphan: Output | None = None) -> Task:
        """End the task, as its caller wishes; a last state. `orphan`: an answer that was paid and nobody took up.

        The claim stays until its worker has `settled`, or its lease ends.
        """
        paid = self.receipt.plus(orphan.attempts if orphan else ())
        return self._to(Status.CANCELLED, now_ms, finished_ms=now_ms, receipt=paid)

    def settled(self, output: Output) -> Task:
        """Give up the claim of a Cancelled task and put its last calls on the receipt; nothing else may change now."""
        if self.status is not Status.CANCELLED:
            raise IllegalTransition(self.task_id, self.status, "settled")
        paid = self.receipt.plus(output.attempts)
        return replace(self, rev=self.rev + 1, updated_ms=output.created_ms, owner="", lease_ms=0, receipt=paid)

    def has_worker(self, now_ms: int) -> bool:
        """Whether somebody may still be at work on it, or at putting down what the work cost."""
        may_be = self.status.is_active or self.status is Status.CANCELLED
        return may_be and bool(self.owner) and now_ms < self.lease_ms

    def released(self, output: Output, *, due_ms: int, counted: bool = True, waiting_for: str = "") -> Task:
        """Hand the task back to the queue; the sweep looks at it from `due_ms`.

        Not `counted`, the claim that ends here is no delivery: nothing was tried in it. `waiting_for` says what an
        outage keeps it from; since when, is kept over several releases.
        """
        return self._to(
            Status.QUEUED,
            output.created_ms,
            owner="",
            lease_ms=0,
            due_ms=due_ms,
            deliveries=self.deliveries if counted else max(0, self.deliveries - 1),
            receipt=self.receipt.plus(output.attempts),
            waiting_for=waiting_for,
            waiting_since_ms=(self.waiting_since_ms or output.created_ms) if waiting_for else None,
            notes=self._noted(Note.WAITING if waiting_for else Note.RELEASED, output.created_ms),
        )

    def completed(self, answer: Output) -> Task:
        """Record the answer of the claim that `answer.key` names; a last state."""
        return self._to(
            Status.COMPLETED,
            answer.created_ms,
            finished_ms=answer.created_ms,
            answer_fence=answer.key.number,
            engine=last_engine(answer.attempts) or self.engine,
            receipt=self.receipt.plus(answer.attempts),
        )

    def failed(self, output: Output, *, overdue: bool = False) -> Task:
        """Record why there is no answer; a last state, unless it is retried. `overdue`: the sweep found it so."""
        return self._to(
            Status.FAILED,
            output.created_ms,
            finished_ms=output.created_ms,
            error=output.error,
            notes=self._noted(Note.OVERDUE, output.created_ms) if overdue else self.notes,
            engine=last_engine(output.attempts) or self.engine,
            receipt=self.receipt.plus(output.attempts),
        )

    def retried(self, *, now_ms: int, due_ms: int, deadline_ms: int | None, payer: Payer | None = None) -> Task:
        """Take a Failed task up again, as its caller wishes: the one way out of a final state.

        What is done stays done and paid; steps that failed are done again; deliveries and deadline start anew. A plan
        that was waiting for its caller's word waits again. From now on the task counts for the key it is retried with.
        """
        if self.status is not Status.FAILED:
            raise IllegalTransition(self.task_id, self.status, Status.QUEUED)
        waits = self.approval == "awaited"
        return replace(
            self,
            status=Status.PLANNED if waits else Status.QUEUED,
            rev=self.rev + 1,
            updated_ms=now_ms,
            due_ms=(deadline_ms or NEVER_MS) if waits else due_ms,
            deadline_ms=deadline_ms,
            retried_fence=self.fence,
            deliveries=0,
            owner="",
            lease_ms=0,
            finished_ms=None,
            error=None,
            counted_for=payer.counted_for if payer else "",
            charge=payer.charge if payer else None,
            notes=self._noted(Note.RETRIED, now_ms),
        )

    def _noted(self, note: Note, now_ms: int) -> tuple[tuple[str, int], ...]:
        return (*self.notes, (note.value, now_ms - self.created_ms))[-MAX_NOTES:]

    def _to(self, status: Status, now_ms: int, **changes: object) -> Task:
        if self.status.is_final:
            raise IllegalTransition(self.task_id, self.status, status)
        changes = {"waiting_for": "", "waiting_since_ms": None} | changes
        # each caller passes fields of this class; mypy cannot see that through a dict
        return replace(self, status=status, updated_ms=now_ms, rev=self.rev + 1, **changes)  # type: ignore[arg-type]
