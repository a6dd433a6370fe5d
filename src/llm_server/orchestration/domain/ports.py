"""What the orchestration needs from outside; every adapter of a port is held to one contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_server.orchestration.domain.api_key import Account, Charges, Key, KeyUse
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef

Clock = Callable[[], int]
"""The time now as Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Due:
    """An open task the sweep has to look at, and the time that made it due."""

    ref: TaskRef
    due_ms: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a tenant's tasks, newest first, and the token of the next page ("" at the end)."""

    tasks: Sequence[Task]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyBinding:
    """What an Idempotency-Key stands for until `until_ms`: one task, and the hash of the body that asked for it.

    For an Idempotency-Key of `POST /keys`, `task_id` is the id of the API key.
    """

    task_id: str
    body_hash: str
    until_ms: int


class TaskStore(Protocol):
    """The truth about tasks, final ones until they expire."""

    def add(self, task: Task, request: Request, *, max_in_flight: int | None = None) -> bool:
        """Store a new task and count it, once; False, and nothing is changed, when it is or was stored already.

        Raises:
            TooManyInFlight: the key it is `counted_for` has `max_in_flight` open tasks; nothing was written.
        """
        ...

    def get(self, ref: TaskRef) -> Snapshot:
        """Read a task with everything stored about it. Raises TaskNotFound."""
        ...

    def peek(self, ref: TaskRef) -> Task:
        """Read a task's state alone. Raises TaskNotFound."""
        ...

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, max_in_flight: int | None = None
    ) -> None:
        """Replace `before` by `after`, store `output` and change the counters, all or nothing.

        Saving the same `after` again is no error, so a write whose reply was lost can be repeated.

        Raises:
            TaskLost: the stored state is not `before`; nothing was written.
            TooManyInFlight: `after` is open again, and its key has `max_in_flight` open tasks; nothing was written.
        """
        ...

    def keep(self, ref: TaskRef, output: Output) -> None:
        """Store an output by its key, outside of any transaction; a later claim finds it."""
        ...

    def delete(self, task: Task) -> None:
        """Remove a final task with everything about it; the totals stay. It cannot be added again for two days.

        Broken off, nothing of it is visible any more; it is due then, and `purge` goes on.

        Raises:
            TaskLost: the stored state is not `task`; nothing was removed.
        """
        ...

    def purge(self, ref: TaskRef) -> None:
        """Remove what is left of a task that was deleted; any other task stays as it is."""
        ...

    def retain(self, task: Task) -> None:
        """Let the texts of a task that stays open, or is taken up again, stay from now on as those of a new one."""
        ...


class IdempotencyStore(Protocol):
    """What callers' Idempotency-Keys stand for."""

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        """Let a caller's key stand for a task, unless it still stands for one; returns what it stands for now."""
        ...

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        """What a caller's key stands for now; None when for nothing."""
        ...


class SweepIndex(Protocol):
    """The open tasks by the time at which the sweep looks at them, and what has expired."""

    def due(self, now_ms: int) -> Iterator[Due]:
        """Open tasks whose `next_look_ms`, or what it was postponed to, has passed; read as far as they are taken.

        First what must be looked at on time (what was postponed to the end of its claim, or `is_near_deadline` then),
        then the others, of each the oldest due first. What is moved on meanwhile may come or not.
        """
        ...

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        """Read the states of at most 100 tasks; what is not found is left out, None is a record nobody can read."""
        ...

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        """Move the due time of an open task, seen as `task`, on; False when it was moved or the task has changed.

        Without `task` (it cannot be read) it is moved on as it is.
        """
        ...

    def prune(self, limit: int) -> None:
        """Remove some of what has expired, where the database does not by itself; it is not shown anyway."""
        ...


class TaskListing(Protocol):
    """A tenant's tasks in order."""

    def page(self, tenant: str, *, size: int, token: str, status: Status | None, role: str | None) -> Page:
        """List a tenant's tasks, newest first. Raises InvalidInput when the token is none of ours."""
        ...


class CounterStore(Protocol):
    """What is counted in the transactions of the tasks."""

    def overview(self) -> tuple[Counters, EngineRecords]:
        """Totals and gauges, and the engines' records, in one read."""
        ...

    def spent_microusd(self, tenant: str, day: str) -> int:
        """What a tenant's calls cost on a UTC day (`YYYY-MM-DD`), by the time they were recorded."""
        ...


class EngineStateStore(Protocol):
    """What the processes tell one another of the engines."""

    def engines(self) -> EngineRecords:
        """What is stored of the engines, in one read that sees every write acknowledged before it."""
        ...

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        """Write what `changes` names (at least one) of an engine's switch, None for what is configured; the rest stays.

        The same again changes nothing. Returns the records after it.
        """
        ...

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        """Replace an engine's state; its switch stays."""
        ...

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        """Replace an engine's state if it still is `before`; False, and nothing written, when it is not."""
        ...


class Store(TaskStore, IdempotencyStore, SweepIndex, TaskListing, CounterStore, EngineStateStore, Protocol):
    """All that a database adapter offers; its users ask for the parts above. Any method may raise StorageUnavailable.

    A record that this version cannot read raises RecordUnreadable; `peek_each` and `page` go on with the others.
    """


class Queue(Protocol):
    """Wake-ups for workers: may be lost, doubled, late or out of order. May raise StorageUnavailable."""

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        """Wake a worker for a task, not before `delay_s` seconds (0 to 900) have passed."""
        ...

    def depth(self) -> int:
        """About how many messages wait or are delayed; one that a worker has taken does not count."""
        ...


class Ledger(Protocol):
    """What is charged to keys that have a daily cap. Every method may raise StorageUnavailable."""

    def reserve(self, account: Account, name: str, microusd: int, *, max_microusd: int) -> Charges | None:
        """Charge the worst case of a call under a name of its own, unless the account would go above `max_microusd`.

        None when it is charged, also when it was under this name before; else nothing was, and what was before.
        """
        ...

    def settle(
        self, account: Account, name: str, reserved_microusd: int, cost_microusd: int, *, withheld_microusd: int = 0
    ) -> None:
        """Replace what was reserved by what the call cost and what stays withheld; a second time it changes nothing."""
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
        """Return whether a key was ever made."""
        ...

    def count_request(self, key_id: str, minute: int, *, most: int) -> int | None:
        """Count one request in a minute. Returns how many of `most` are left; None if all were used up before."""
        ...

    def use(self, account: Account) -> KeyUse:
        """Read what is counted for a key: the charges of the account's day, and its tasks in flight."""
        ...
