"""The task: an immutable state record. Each transition returns the next state.

A final state never changes, with two exceptions: a caller can retry a Failed task, and the last calls of a Cancelled
task are put on its receipt (ADR 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Charge, Payer
from llm_server.orchestration.domain.engines.allowed import common
from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.errors import IllegalTransition, TaskBusy, TaskFinished, TaskUnapproved
from llm_server.orchestration.domain.output import Output, last_answered
from llm_server.orchestration.domain.receipt import Attempt, Receipt
from llm_server.orchestration.domain.status import Mode, Priority, Status
from llm_server.orchestration.domain.turns import Line

NEVER_MS = 253_402_300_799_000
"""The end of the year 9999: the due time of a task that only its caller can move on."""

MAX_NOTES = 6
DAY_MS = 24 * 3600 * 1000
"""The sweep also looks at every open task that has not changed for a day."""
NEAR_MS = 15 * 60 * 1000
"""How long before its deadline a task comes first in the sweep, before the tasks that only wait (ADR 14)."""


class Note(StrEnum):
    """A transition of a task that is recorded only as a note. The values are stored, so they never change."""

    CLAIMED = "c"
    RELEASED = "r"
    WAITING = "w"
    APPROVED = "a"
    RETRIED = "t"
    OVERDUE = "o"


class TaskRef(Struct, frozen=True):
    """The reference of a task: its tenant and its id; as text `<tenant>/<task_id>`."""

    tenant: str
    task_id: str

    @classmethod
    def parse(cls, text: str) -> TaskRef:
        """Parse `<tenant>/<task_id>`. Raises ValueError for any other text."""
        tenant, slash, task_id = text.partition("/")
        if not (tenant and slash and task_id) or "/" in task_id:
            raise ValueError("a task reference is <tenant>/<task_id>")
        return cls(tenant, task_id)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.task_id}"


class Task(Struct, frozen=True, kw_only=True):
    """The state of a task. Each transition returns the next state, with `rev` one higher.

    A store accepts a state only if it holds the previous one (`rev - 1`), so it rejects the second of two writers.
    `fence` counts claims; `deliveries` counts claims since the task last made progress. Both grow before the work
    begins, so a prompt that crashes its worker fails in the end. All times are Unix milliseconds:

    - `lease_ms`: when the claim ends;
    - `due_ms`: when the sweep looks at the task;
    - `deadline_ms`: when the task fails if it is not final.

    `waiting_for` names the engines that the task waits for in an outage, or the reason. Plan steps that failed in
    claims up to `retried_fence` are done again. `counted_for` is the id of the key that limits its tasks in flight (""
    without such a limit). `charge` is the key that the calls are charged to (None without a daily limit).
    `sources` are those that the keys allow with which the task was retried or its plan approved (None without such a
    limit); the request has the limit of the key that created the task.
    `demonstration`: the demonstration engine or the embedded engine gave the answer. `notes` are the last 6 moves that
    no other record tells of, each a `Note` (or a letter that a newer version stored) and its milliseconds since
    `created_ms`. `metadata` is that of the request; it is in the state too, because a listing reads only states.
    `max_cost_microusd` limits the cost of the task since its plan was approved (None without such a limit); the request
    has the limit of the call that created the task, and the lower of both holds.
    `pending` are engine calls of the claim that were announced and that no output holds yet, each as it is booked if
    the worker dies (ADR 31).
    `revs` are the revisions that wrote the notes; () if they are 2, 3, 4 and so on, and in states of older
    versions. `final_rev` is the revision that ended a Cancelled task, if another one has followed, else 0.

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
    demonstration: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    sources: Sources | None = None
    pending: tuple[Attempt, ...] = ()
    priority: Priority = Priority.INTERACTIVE
    revs: tuple[int, ...] = ()
    final_rev: int = 0
    max_cost_microusd: int | None = None

    @property
    def awaits_approval(self) -> bool:
        """Whether the task's plan waits for the caller's approval. No worker has such a task."""
        return self.approval == "awaited" and not self.status.is_final

    @property
    def is_waiting(self) -> bool:
        """Whether the task waits for an engine now. A claim keeps `waiting_for` as well."""
        return self.status is Status.QUEUED and bool(self.waiting_for)

    @property
    def next_look_ms(self) -> int:
        """When the sweep looks at the task, unless the store has postponed that."""
        return min(self.due_ms, self.updated_ms + DAY_MS, self.deadline_ms or NEVER_MS)

    def is_near_deadline(self, at_ms: int) -> bool:
        """Return whether the deadline is near or has passed at `at_ms`, so that the sweep must look on time."""
        return self.deadline_ms is not None and self.deadline_ms - at_ms <= NEAR_MS

    def is_overdue(self, now_ms: int) -> bool:
        """Return whether the deadline has passed while no worker has the task, which would notice it."""
        idle = self.status is Status.QUEUED or self.awaits_approval
        return idle and self.deadline_ms is not None and now_ms >= self.deadline_ms

    @property
    def ref(self) -> TaskRef:
        return TaskRef(self.tenant, self.task_id)

    @property
    def line(self) -> Line:
        """Where the task waits for its turn."""
        return Line(self.tenant, self.priority)

    def is_suspect(self, *, now_ms: int) -> bool:
        """Return whether two workers in a row died with the task. A process carries out one suspect at a time."""
        return self.status.is_active and self.deliveries >= 2 and now_ms >= self.lease_ms

    @property
    def claimed_ms(self) -> int | None:
        """When the last claim began, in Unix milliseconds; None if no note tells it."""
        times = [after_ms for note, after_ms in self.notes if note == Note.CLAIMED]
        return self.created_ms + times[-1] if times else None

    def claimed(self, *, owner: str, now_ms: int, lease_ms: int, has_plan: bool, lost: Output | None = None) -> Task:
        """Give the task to one worker until `lease_ms` (Unix milliseconds).

        The calls of `lost`, which the last worker announced before it died, go on the receipt.

        Raises:
            TaskFinished: the task is final.
            TaskBusy: another worker's lease has not ended.
            TaskUnapproved: its plan waits for approval, and its deadline has not come.
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
            **self._noted(Note.CLAIMED, now_ms),
            receipt=self.receipt.plus(lost.attempts if lost else ()),
            pending=(),
        )

    def abandoned(self, *, now_ms: int) -> Task:
        """End the lease of a worker that is known to be dead. An open task is due now."""
        return replace(self, rev=self.rev + 1, lease_ms=now_ms, due_ms=now_ms, final_rev=self._known_final_rev)

    def triaged(self, output: Output, *, mode: Mode, role: str, profile: str) -> Task:
        """Record how the task is to be done, as its triage decided, and the call for it. The claim goes on."""
        if self.status is not Status.PROCESSING:
            raise IllegalTransition(self.task_id, self.status, "triaged")
        return replace(
            self,
            rev=self.rev + 1,
            updated_ms=output.created_ms,
            mode=mode,
            role=role,
            profile=profile,
            receipt=self.receipt.plus(output.attempts),
        )

    def progressed(self, output: Output) -> Task:
        """Count a finished plan or step. The count of deliveries starts again at 0, because the task made progress."""
        return self._to(Status.PLANNED, output.created_ms, deliveries=0, receipt=self.receipt.plus(output.attempts))

    def awaiting_approval(self, plan: Output, *, due_ms: int) -> Task:
        """Stop at the plan, without a worker. Until `due_ms`, the task's deadline, only its caller can move it on."""
        task = self.progressed(plan)
        return replace(task, owner="", lease_ms=0, due_ms=due_ms, approval="awaited")

    def approved(
        self, *, now_ms: int, due_ms: int, payer: Payer | None = None, max_cost_microusd: int | None = None
    ) -> Task:
        """Approve the plan: the task goes back to the queue, limited to the sources of the key it is approved with.

        From now on the task costs at most `max_cost_microusd`, what it has cost so far included.
        """
        return self._to(
            Status.QUEUED,
            now_ms,
            due_ms=due_ms,
            approval="given",
            sources=self._sources_with(payer),
            **self._noted(Note.APPROVED, now_ms),
            max_cost_microusd=max_cost_microusd,
        )

    def rejected(self, *, now_ms: int) -> Task:
        """Reject the plan. The task is Cancelled, which is final."""
        return self._to(Status.CANCELLED, now_ms, finished_ms=now_ms, approval="refused")

    def cancelled(self, *, now_ms: int, left: Output | None = None) -> Task:
        """Cancel the task, which is final. The calls of `left`, which a dead worker left, go on the receipt.

        A living worker keeps the claim and its pending calls until it has `settled`, or its lease ends.
        """
        paid = self.receipt.plus(left.attempts if left else ())
        pending = self.pending if self.has_worker(now_ms) else ()
        return self._to(Status.CANCELLED, now_ms, finished_ms=now_ms, receipt=paid, pending=pending)

    def settled(self, output: Output) -> Task:
        """End the claim of a Cancelled task and put its last calls on the receipt."""
        if self.status is not Status.CANCELLED:
            raise IllegalTransition(self.task_id, self.status, "settled")
        paid = self.receipt.plus(output.attempts)
        return replace(
            self,
            rev=self.rev + 1,
            updated_ms=output.created_ms,
            owner="",
            lease_ms=0,
            receipt=paid,
            pending=(),
            final_rev=self._known_final_rev,
        )

    @property
    def _known_final_rev(self) -> int:
        """The revision that ended the task; 0 if it is open."""
        return (self.final_rev or self.rev) if self.status.is_final else 0

    def has_worker(self, now_ms: int) -> bool:
        """Return whether a worker may still be working on the task, or storing what the work cost."""
        return self._is_claimed and now_ms < self.lease_ms

    def has_dead_worker(self, now_ms: int) -> bool:
        """Return whether a claim has not ended, but its lease has. A worker that is only late can store nothing."""
        return self._is_claimed and now_ms >= self.lease_ms

    def is_in_use(self, now_ms: int) -> bool:
        """Return whether the task is open, or a worker may still be storing what its work cost."""
        return not self.status.is_final or self.has_worker(now_ms)

    @property
    def _is_claimed(self) -> bool:
        return (self.status.is_active or self.status is Status.CANCELLED) and bool(self.owner)

    def released(self, output: Output, *, due_ms: int, counted: bool = True, waiting_for: str = "") -> Task:
        """Hand the task back to the queue; the sweep looks at it from `due_ms`.

        If not `counted`, the claim that ends here does not count as a delivery, because nothing was tried in it.
        `waiting_for` says what the task waits for in an outage. `waiting_since_ms` keeps the time of the first such
        release.
        """
        waiting_since_ms = (self.waiting_since_ms or output.created_ms) if waiting_for else None
        return self._to(
            Status.QUEUED,
            output.created_ms,
            owner="",
            lease_ms=0,
            due_ms=due_ms,
            deliveries=self.deliveries if counted else max(0, self.deliveries - 1),
            receipt=self.receipt.plus(output.attempts),
            waiting_for=waiting_for,
            waiting_since_ms=waiting_since_ms,
            **self._noted(Note.WAITING if waiting_for else Note.RELEASED, output.created_ms),
        )

    def completed(self, answer: Output) -> Task:
        """Record the answer of the claim that `answer.key` names. Completed is final."""
        last = last_answered(answer.attempts)
        return self._to(
            Status.COMPLETED,
            answer.created_ms,
            finished_ms=answer.created_ms,
            answer_fence=answer.key.number,
            engine=last.engine if last else self.engine,
            demonstration=last is not None and last.demonstration,
            receipt=self.receipt.plus(answer.attempts),
        )

    def failed(self, output: Output, *, overdue: bool = False) -> Task:
        """Record why the task has no answer. Failed is final, unless the task is retried.

        `overdue`: the sweep failed the task because its deadline has passed.
        """
        last = last_answered(output.attempts)
        return self._to(
            Status.FAILED,
            output.created_ms,
            finished_ms=output.created_ms,
            error=output.error,
            **self._noted(Note.OVERDUE, output.created_ms) if overdue else {},
            engine=last.engine if last else self.engine,
            receipt=self.receipt.plus(output.attempts),
        )

    def retried(self, *, now_ms: int, due_ms: int, deadline_ms: int | None, payer: Payer | None = None) -> Task:
        """Open a Failed task again: the only way out of a final state.

        Finished steps are kept, failed steps are done again. Deliveries and deadline start again. A plan that was
        waiting for approval waits again. From now on the task counts for the key that it is retried with, and that
        key's limit of sources holds beside the earlier ones.
        """
        if self.status is not Status.FAILED:
            raise IllegalTransition(self.task_id, self.status, Status.QUEUED)
        waits_for_approval = self.approval == "awaited"
        return replace(
            self,
            status=Status.PLANNED if waits_for_approval else Status.QUEUED,
            rev=self.rev + 1,
            updated_ms=now_ms,
            due_ms=(deadline_ms or NEVER_MS) if waits_for_approval else due_ms,
            deadline_ms=deadline_ms,
            retried_fence=self.fence,
            deliveries=0,
            owner="",
            lease_ms=0,
            finished_ms=None,
            error=None,
            counted_for=payer.counted_for if payer else "",
            charge=payer.charge if payer else None,
            sources=self._sources_with(payer),
            **self._noted(Note.RETRIED, now_ms),
        )

    def _sources_with(self, payer: Payer | None) -> Sources | None:
        return common(self.sources, payer.limits.sources if payer else None)

    @property
    def known_revs(self) -> tuple[int, ...]:
        """The revision that wrote each note."""
        return self.revs or _default_revs(self.notes)

    def at_rev(self, rev: int) -> Task:
        """Return this next state with another revision, because others were saved before it."""
        known = tuple(rev if each == self.rev else each for each in self.known_revs)
        return replace(self, rev=rev, revs=_stored_revs(self.notes, known))

    def _noted(self, note: Note, now_ms: int) -> dict[str, Any]:
        """Return the fields of the next state that record a note."""
        notes = (*self.notes, (note.value, now_ms - self.created_ms))[-MAX_NOTES:]
        revs = (*self.known_revs, self.rev + 1)[-MAX_NOTES:]
        return {"notes": notes, "revs": _stored_revs(notes, revs)}

    def _to(self, status: Status, now_ms: int, **changes: object) -> Task:
        if self.status.is_final:
            raise IllegalTransition(self.task_id, self.status, status)
        fields: Any = {"waiting_for": "", "waiting_since_ms": None} | changes  # Any: mypy cannot match a dict to fields
        return replace(self, status=status, updated_ms=now_ms, rev=self.rev + 1, **fields)


def _default_revs(notes: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
    return tuple(range(2, 2 + len(notes)))


def _stored_revs(notes: tuple[tuple[str, int], ...], revs: tuple[int, ...]) -> tuple[int, ...]:
    """Return the revisions of notes as a state holds them: () if they are the default."""
    return () if revs == _default_revs(notes) else revs
