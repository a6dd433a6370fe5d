"""What the orchestration needs from outside. Every adapter of a port passes the same contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef

Clock = Callable[[], int]
"""Returns the current time as Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Due:
    """An open task that the sweep has to look at, and its due time in Unix milliseconds."""

    ref: TaskRef
    due_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which of a tenant's tasks a listing shows. A field at its default lets every task pass.

    `engine` is the engine that answered (of a Failed task: the last one that was called). A task needs all pairs of
    `metadata`. `created_from_ms` is inclusive and `created_to_ms` exclusive, both Unix milliseconds.
    """

    statuses: frozenset[Status] = frozenset()
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    awaiting_approval: bool | None = None
    created_from_ms: int = 0
    created_to_ms: int | None = None

    @property
    def possible_statuses(self) -> frozenset[Status]:
        """The statuses that a matching task can have: only open tasks wait for approval."""
        wanted = self.statuses or frozenset(Status)
        return frozenset(s for s in wanted if not s.is_final) if self.awaiting_approval else wanted

    def matches(self, task: Task) -> bool:
        """Return whether a task passes. The times of creation are not compared: the stores read only that range."""
        return (
            (not self.statuses or task.status in self.statuses)
            and self.role in (None, task.role)
            and self.mode in (None, task.mode)
            and self.engine in (None, task.engine)
            and self.awaiting_approval in (None, task.awaits_approval)
            and self.metadata.items() <= task.metadata.items()
        )


EVERY_TASK = TaskFilter()


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a tenant's tasks, newest first, and the token of the next page ("" at the end of the list)."""

    tasks: Sequence[Task]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyBinding:
    """The task that an Idempotency-Key stands for until `until_ms`, and the hash of the body it was first sent with.

    For an Idempotency-Key of `POST /keys`, `task_id` is the id of the API key.
    """

    task_id: str
    body_hash: str
    until_ms: int


class TaskStore(Protocol):
    """The authoritative record of all tasks. Final tasks are kept until they expire."""

    def add(self, task: Task, request: Request, *, max_in_flight: int | None = None) -> bool:
        """Store a new task with its request, and count it.

        Returns False, with nothing changed, if a task with this name is stored, or was deleted within the last 2 days.

        Raises:
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

        Saving the same `after` again has no further effect, so a write whose reply was lost can be repeated.

        Raises:
            TaskLost: the stored state is not `before`; nothing was written.
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

    def prune(self, limit: int) -> None:
        """Remove expired records, at most `limit` tasks among them, if the database does not remove them by itself.

        No read shows an expired task, removed or not.
        """
        ...


class TaskListing(Protocol):
    """A tenant's tasks, newest first."""

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        """Return up to `size` of a tenant's tasks that pass the filter, newest first.

        A call looks at a limited number of tasks, however many the tenant has. If the limit is reached before `size`
        tasks are found, the page is shorter, or even empty, and has a token. Only a page without a token is the last.
        `token` continues after the page that gave it, also with another filter.

        Raises:
            InvalidInput: no store gives out such a token.
        """
        ...


class CounterStore(Protocol):
    """What is counted in the transactions of the tasks."""

    def overview(self) -> tuple[Counters, EngineRecords]:
        """Return totals and gauges, and the engines' records, in one read."""
        ...

    def spent_microusd(self, tenant: str, day: str) -> int:
        """Return the cost of a tenant's calls that were recorded on a UTC day (`YYYY-MM-DD`)."""
        ...


class EngineStateStore(Protocol):
    """What the processes share about the engines."""

    def engines(self) -> EngineRecords:
        """Return the records of all engines. One read, which sees every write that was acknowledged before it."""
        ...

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        """Change the settings of an engine's switch that `changes` names (at least one); the others stay.

        None returns a setting to its configured value. Repeating a call has no further effect.

        Returns the records of all engines after the change.
        """
        ...

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        """Replace an engine's state. Its switch does not change."""
        ...

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        """Replace an engine's state if it is still `before`. Returns False, with nothing written, if it is not."""
        ...


class Store(TaskStore, IdempotencyStore, SweepIndex, TaskListing, CounterStore, EngineStateStore, Protocol):
    """Everything that a database adapter offers. Its users ask for the parts above.

    Any method may raise StorageUnavailable, and RecordUnreadable if this version cannot read a stored record.
    `peek_each` and `page` do not raise RecordUnreadable: they go on with the other tasks.
    """


class Queue(Protocol):
    """Wake-ups for workers. A message may be lost, doubled, late or out of order.

    Every method may raise StorageUnavailable.
    """

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        """Wake a worker for a task after `delay_s` seconds (0 to 900)."""
        ...

    def depth(self) -> int:
        """Return about how many messages wait or are delayed. A message that a worker has taken does not count."""
        ...


class Ledger(Protocol):
    """What is charged to API keys that have a daily limit. Every method may raise StorageUnavailable."""

    def reserve(self, account: Account, name: str, microusd: int, *, max_microusd: int) -> Charges | None:
        """Charge the worst-case cost of a call to an account, under a name that only this call has.

        Returns None if the amount was reserved, now or by an earlier call with this name. Otherwise the account would
        exceed `max_microusd`: nothing is reserved, and the account's charges are returned.
        """
        ...

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        """Replace a reserved amount by the cost of the call and the amount that stays withheld.

        Calling this again has no further effect.
        """
        ...


class KeyStore(Ledger, Protocol):
    """API keys and what is counted for them. Every method may raise StorageUnavailable."""

    def add_key(self, key: Key) -> bool:
        """Store a new key. Returns False, and writes nothing, if another key has its id.

        Adding the same key again returns True, so a write whose reply was lost can be repeated.
        """
        ...

    def swap_key(self, before: Key, after: Key) -> bool:
        """Replace the key `before` by `after`. Returns False, and writes nothing, if the stored key is not `before`."""
        ...

    def key(self, key_id: str) -> Key | None:
        """Read a key; None if no key has this id. Sees every write that was acknowledged before."""
        ...

    def all_keys(self) -> list[Key]:
        """Read all keys, in any order."""
        ...

    def has_keys(self) -> bool:
        """Return whether any API key is stored; revoked keys count."""
        ...

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        """Count one request of a key in a minute (Unix time in minutes), if fewer than `most` are counted in it.

        Returns how many of `most` are left, or None if the request was not counted.
        """
        ...

    def use(self, account: Account) -> KeyUse:
        """Read what is counted for a key: the charges of the account's day, and its tasks in flight."""
        ...
