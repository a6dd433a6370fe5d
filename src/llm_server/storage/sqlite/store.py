"""The embedded store. An acknowledged write survives a power cut (synchronous=FULL)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.errors import ConversationNotFound, TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.deltas import Delta, Pace
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.store import Overview
from llm_server.orchestration.domain.ports.tasks import Due, IdempotencyBinding, T
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite import (
    conversations,
    counters,
    deletions,
    deltas,
    engine_states,
    erasure,
    idempotency,
    indexes,
    overview,
    task_rows,
)
from llm_server.storage.sqlite.database import Database


class SqliteStore:
    """The Store port over a SQLite file. Each write is one command of the file's writer.

    `on_end` is called with each task that has become final, and its result, after the commit and before the caller of
    the write goes on. `on_change` is called so with each task whose state was saved or deleted. They run on the
    writer's thread, so they must not block.
    """

    def __init__(
        self,
        database: Database,
        retention: Retention | None = None,
        *,
        on_end: Callable[[Task, str | None], None] | None = None,
        on_change: Callable[[TaskRef], None] | None = None,
    ) -> None:
        self._database = database
        self._retention = retention or Retention()
        self._on_end = on_end
        self._on_change = on_change

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def atomically(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:
        return self._database.write(lambda _: use_case(), line)

    def add(
        self,
        task: Task,
        request: Request,
        *,
        max_in_flight: int | None = None,
        conversation: Conversation | None = None,
    ) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            if max_in_flight is not None and not task_rows.is_known(db, task.ref):
                _check_in_flight(db, task, max_in_flight)
            if conversation is not None and not task_rows.is_known(db, task.ref):
                conversations.advance(db, conversation)
            if not task_rows.insert(db, task, request):
                return False
            counters.count(db, None, task)
            return True

        return self._database.write(work)

    def get(self, ref: TaskRef) -> Snapshot:
        with self._database.reading() as db:
            snapshot = task_rows.snapshot(db, ref)
        if snapshot is None or self._retention.has_expired(snapshot.task):
            raise TaskNotFound
        return snapshot

    def peek(self, ref: TaskRef) -> Task:
        with self._database.reading() as db:
            task = task_rows.state(db, ref, self._retention)
        if task is None:
            raise TaskNotFound
        return task

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, max_in_flight: int | None = None
    ) -> None:
        def work(db: sqlite3.Connection) -> bool:
            if max_in_flight is not None and task_rows.holds(db, before):
                _check_in_flight(db, after, max_in_flight)
            if self._retention.has_expired(before) or not task_rows.update(db, before, after):
                if task_rows.state(db, after.ref, self._retention) == after:
                    return True
                if output is not None and output.is_answer:
                    task_rows.keep(db, after.ref, output)
                return False
            if output is not None:
                task_rows.keep(db, after.ref, output)
            counters.count(db, before, after)
            if after.status.is_final and self._on_end is not None:
                self._database.after_commit(partial(self._on_end, after, task_rows.result(db, after, output)))
            self._tell_change(after.ref)
            return True

        if not self._database.write(work, after.line):
            raise TaskLost(after.task_id)

    def _tell_change(self, ref: TaskRef) -> None:
        if self._on_change is not None:
            self._database.after_commit(partial(self._on_change, ref))

    def keep(self, ref: TaskRef, output: Output) -> None:
        self._database.write(lambda db: task_rows.keep(db, ref, output))

    def pace(self) -> Pace:
        return Pace(max_bytes=64 * 1024, max_wait_s=0.5)

    def append(self, ref: TaskRef, group: Sequence[Delta]) -> None:
        self._database.write(lambda db: deltas.append(db, ref, group, self._retention))

    def deltas(self, ref: TaskRef, *, after: int = 0) -> list[Delta]:
        with self._database.reading() as db:
            return deltas.read(db, ref, after)

    def delete(self, task: Task) -> None:
        def work(db: sqlite3.Connection) -> None:
            deletions.delete(db, task, self._retention)
            self._tell_change(task.ref)

        self._database.write(work)

    def purge(self, ref: TaskRef) -> None:
        self._database.write(lambda db: deletions.purge(db, ref))

    def erase(self, tenant: str) -> Erased:
        return erasure.erase(self._database, tenant, self._retention.clock())

    def add_conversation(self, conversation: Conversation) -> None:
        self._database.write(lambda db: conversations.add(db, conversation))

    def conversation(self, tenant: str, conversation_id: str) -> Conversation:
        with self._database.reading() as db:
            found = conversations.read(db, tenant, conversation_id, self._retention)
        if found is None:
            raise ConversationNotFound
        return found

    def remove_conversation(self, conversation: Conversation) -> bool:
        return self._database.write(lambda db: conversations.remove(db, conversation))

    def turns(self, refs: Sequence[TaskRef]) -> Iterator[Turn | None]:
        for ref in refs:
            with self._database.reading() as db:
                turn = conversations.turn(db, ref, self._retention)
            yield turn

    def retain(self, task: Task) -> None:
        """Do nothing: texts stay until `prune` removes their task."""

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        return self._database.write(lambda db: idempotency.bind(db, tenant, key, binding, now_ms=now_ms))

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        with self._database.reading() as db:
            return idempotency.bound(db, tenant, key, now_ms=now_ms)

    def note_original(self, tenant: str, fingerprint: str, original: Original) -> None:
        self._database.write(lambda db: idempotency.note_original(db, tenant, fingerprint, original))

    def originals(self, tenant: str, fingerprint: str, *, now_ms: int) -> list[Original]:
        with self._database.reading() as db:
            return idempotency.originals(db, tenant, fingerprint, now_ms=now_ms)

    def swap_original(self, tenant: str, fingerprint: str, before: Original, after: Original) -> bool:
        return self._database.write(lambda db: idempotency.swap_original(db, tenant, fingerprint, before, after))

    def due(self, now_ms: int) -> Iterator[Due]:
        return indexes.due(self._database, now_ms)

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        with self._database.reading() as db:
            return indexes.peek_each(db, refs, self._retention)

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        return self._database.write(lambda db: indexes.postpone(db, due, task, due_ms, self._retention))

    def end_leases(self, now_ms: int) -> int:
        """End the lease of every task that has a worker, and make the open ones due now.

        Call this only in the process that holds the file, before its workers start: all earlier workers have ended.
        Returns how many tasks had a worker.
        """
        return self._database.write(lambda db: indexes.end_leases(db, now_ms))

    def wake_ups(self, sweep_ms: int) -> Iterator[tuple[str, int, str]]:
        """Yield the messages that the queue of a new process needs, after `end_leases`.

        Each is a task, when its message is visible, and the task's priority.

        They are for the Queued tasks, and for those that an earlier process left to a worker: the open ones to go on
        with, the Cancelled ones to record the cost of their calls. A released task is visible after its retry delay.
        """
        return indexes.wake_ups(self._database, sweep_ms)

    def prune(self, limit: int) -> bool:
        return self._database.write(lambda db: deletions.prune(db, limit, self._retention))

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        return indexes.page(self._database, self._retention, tenant, size=size, token=token, task_filter=task_filter)

    def newest(self, tenant: str, *, most: int, task_filter: TaskFilter) -> Sequence[Task]:
        return indexes.newest(self._database, self._retention, tenant, most=most, task_filter=task_filter)

    def overview(self) -> Overview:
        with self._database.reading() as db:
            return overview.read(db)

    def spent_microusd(self, tenant: str, day: str) -> int:
        with self._database.reading() as db:
            return counters.spent_microusd(db, tenant, day)

    def engines(self) -> EngineRecords:
        with self._database.reading() as db:
            return engine_states.read(db)

    def switch_engine(
        self, engine: str, changes: Mapping[SwitchName, bool | None], *, now_ms: int = 0
    ) -> EngineRecords:
        return self._database.write(lambda db: engine_states.switch(db, engine, changes, now_ms))

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        self._database.write(lambda db: engine_states.save(db, engine, state))

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        return self._database.write(lambda db: engine_states.swap(db, engine, before, after))


def _check_in_flight(db: sqlite3.Connection, task: Task, max_in_flight: int) -> None:
    """Raise TooManyInFlight if the task's API key has `max_in_flight` open tasks."""
    if counters.in_flight(db, task.counted_for) >= max_in_flight:
        raise TooManyInFlight(max_in_flight)
