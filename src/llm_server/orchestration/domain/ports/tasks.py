"""The ports for stored tasks, their Idempotency-Keys, and the open tasks that the sweep looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line

T = TypeVar("T")


class Due(Struct, frozen=True):
    """An open task that the sweep has to look at, and its due time in Unix milliseconds."""

    ref: TaskRef
    due_ms: int


class IdempotencyBinding(Struct, frozen=True, kw_only=True):
    """The task that an Idempotency-Key stands for until `until_ms`, and the hash of the body it was first sent with.

    For an Idempotency-Key of `POST /keys`, `task_id` is the id of the API key.
    """

    task_id: str
    body_hash: str
    until_ms: int


class TaskStore(Protocol):
    """The authoritative record of all tasks. Final tasks are kept until they expire."""

    def atomically(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:
        """Run a use case that calls this store several times, and return its result when its writes are durable.

        If the database can do so cheaply, all calls are one transaction; otherwise each is one. The use case must not
        wait for other threads, and may be run twice: the first time without any effect on the store. Use cases of
        different lines may take turns.
        """
        ...

    def add(
        self,
        task: Task,
        request: Request,
        *,
        max_in_flight: int | None = None,
        conversation: Conversation | None = None,
    ) -> bool:
        """Store a new task with its request, and count it. `conversation` replaces its previous record with that.

        Returns False, with nothing changed, if a task with this name is stored, or was deleted within the last 2 days.

        Raises:
            ConversationBusy: the stored record is not the one before `conversation`; nothing was written.
            TooManyInFlight: the API key `task.counted_for` has `max_in_flight` open tasks; nothing was written.
        """
        ...

    def get(self, ref: TaskRef) -> Snapshot:
        """Read a task with everything stored about it. Raises TaskNotFound."""
        ...

    def peek(self, ref: TaskRef) -> Task:
        """Read only a task's state. Raises TaskNotFound."""
        ...

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, max_in_flight: int | None = None
    ) -> None:
        """Replace the state `before` by `after`, store `output` and update the counters, in one transaction.

        An answer (`Output.is_answer`) is kept even if the state cannot be saved: if the worker dies then, the next
        delivery finds what was paid for. Saving the same `after` again has no further effect, so a write whose reply
        was lost can be repeated.

        Raises:
            TaskLost: the stored state is not `before`; nothing was written, except an answer.
            TooManyInFlight: `after` reopens a final task, and its API key has `max_in_flight` open tasks; nothing was
                written.
        """
        ...

    def keep(self, ref: TaskRef, output: Output) -> None:
        """Store an output without changing the task's state; an output with the same key is replaced.

        If the worker dies before it saves the state, the next claim finds the output.
        """
        ...

    def delete(self, task: Task) -> None:
        """Remove a final task and everything stored about it; the totals stay. The task cannot be added for 2 days.

        If the removal is interrupted, the task is already hidden from every read. The sweep then finds it due, and
        `purge` completes the removal.

        Raises:
            TaskLost: the stored state is not `task`; nothing was removed.
        """
        ...

    def purge(self, ref: TaskRef) -> None:
        """Remove what is left of a deleted task. A task that was not deleted stays unchanged."""
        ...

    def retain(self, task: Task) -> None:
        """Keep the texts of a task as long as if they were written now; for tasks that stay open long or are retried.

        Texts are the request and the outputs.
        """
        ...


class IdempotencyStore(Protocol):
    """The tasks that callers' Idempotency-Keys stand for."""

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        """Bind a caller's Idempotency-Key to a task, unless an earlier binding is in force at `now_ms`.

        Returns the binding that is in force after the call: the earlier one, or `binding`.
        """
        ...

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        """Return the binding of a caller's Idempotency-Key that is in force at `now_ms`, or None."""
        ...


class SweepIndex(Protocol):
    """The open tasks by due time, and the removal of what has expired."""

    def due(self, now_ms: int) -> Iterator[Due]:
        """Yield the open tasks whose due time has passed, reading only as far as the caller iterates.

        A task's due time is `next_look_ms` of its state, or the time that `postpone` set since. Tasks that must be
        looked at on time come first: those postponed to the end of a claim, and those whose deadline is near at their
        due time (`is_near_deadline`). All others follow. Each of the two groups is sorted by due time, earliest first.
        A task whose due time changes during the iteration may or may not be yielded.
        """
        ...

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        """Read the states of at most 100 tasks.

        Tasks that are not found are left out. The value is None if this version cannot read the stored state.
        """
        ...

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        """Set the due time of an open task to `due_ms`, in Unix milliseconds.

        `task` is the state that the caller has read, or None if the state cannot be read.

        Returns False, with nothing changed, if the due time is no longer `due.due_ms`, or the state not `task`.
        """
        ...

    def prune(self, limit: int) -> bool:
        """Remove expired records, at most `limit` tasks among them, if the database does not remove them by itself.

        No read shows an expired task, removed or not. Returns whether more may be left to remove.
        """
        ...
