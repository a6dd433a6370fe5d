"""The embedded store. An acknowledged write survives a power cut (synchronous=FULL)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.errors import TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.tasks import Due, IdempotencyBinding
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.sqlite import counters, deletions, engine_states, idempotency, indexes, task_rows
from llm_server.storage.sqlite.database import Database


class SqliteStore:
    """The Store port over a SQLite file. Each write is one transaction."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self._database = Database(path, durable=True)
        self._retention = retention or Retention()

    def close(self) -> None:
        self._database.close()

    def add(self, task: Task, request: Request, *, max_in_flight: int | None = None) -> bool:
        with self._database.transaction() as db:
            key = (task.tenant, task.task_id)
            if any(task_rows.is_in(db, table, task.ref) for table in ("tasks", "deleted")):
                return False
            if max_in_flight is not None and counters.in_flight(db, task.counted_for) >= max_in_flight:
                raise TooManyInFlight(max_in_flight)
            db.execute("INSERT INTO requests VALUES (?, ?, ?)", (*key, records.encode(request)))
            task_rows.insert(db, task)
            counters.count(db, None, task)
        return True

    def get(self, ref: TaskRef) -> Snapshot:
        key = (ref.tenant, ref.task_id)
        with self._database.reading() as db:
            task = task_rows.state(db, ref, self._retention)
            if task is None:
                raise TaskNotFound
            (request,) = db.execute("SELECT body FROM requests WHERE (tenant, task_id) = (?, ?)", key).fetchone()
            rows = db.execute("SELECT key, body FROM outputs WHERE (tenant, task_id) = (?, ?)", key).fetchall()
        outputs = {records.parse_output_key(name): records.output(body) for name, body in rows}
        return Snapshot(task=task, request=records.request(request), outputs=outputs)

    def peek(self, ref: TaskRef) -> Task:
        with self._database.reading() as db:
            task = task_rows.state(db, ref, self._retention)
        if task is None:
            raise TaskNotFound
        return task

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, max_in_flight: int | None = None
    ) -> None:
        with self._database.transaction() as db:
            stored = task_rows.state(db, after.ref, self._retention)
            if stored == after:
                return
            if stored is None or stored.rev != before.rev:
                raise TaskLost(after.task_id)
            if max_in_flight is not None and counters.in_flight(db, after.counted_for) >= max_in_flight:
                raise TooManyInFlight(max_in_flight)
            task_rows.update(db, stored, after)
            if output is not None:
                task_rows.keep(db, after.ref, output)
            counters.count(db, before, after)

    def keep(self, ref: TaskRef, output: Output) -> None:
        with self._database.transaction() as db:
            task_rows.keep(db, ref, output)

    def delete(self, task: Task) -> None:
        with self._database.transaction() as db:
            deletions.delete(db, task, self._retention)

    def purge(self, ref: TaskRef) -> None:
        with self._database.transaction() as db:
            deletions.purge(db, ref)

    def retain(self, task: Task) -> None:
        """Do nothing: texts stay until `prune` removes their task."""

    def bind_idempotency_key(
        self, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
    ) -> IdempotencyBinding:
        with self._database.transaction() as db:
            return idempotency.bind(db, tenant, key, binding, now_ms=now_ms)

    def bound_idempotency_key(self, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
        with self._database.reading() as db:
            return idempotency.bound(db, tenant, key, now_ms=now_ms)

    def due(self, now_ms: int) -> Iterator[Due]:
        return indexes.due(self._database, now_ms)

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        with self._database.reading() as db:
            return indexes.peek_each(db, refs, self._retention)

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        with self._database.transaction() as db:
            return indexes.postpone(db, due, task, due_ms, self._retention)

    def end_leases(self, now_ms: int) -> int:
        """End the lease of every task that has a worker, and make the open ones due now.

        Call this only in the process that holds the file, before its workers start: all earlier workers have ended.
        Returns how many tasks had a worker.
        """
        with self._database.transaction() as db:
            return indexes.end_leases(db, now_ms)

    def prune(self, limit: int) -> bool:
        with self._database.transaction() as db:
            return deletions.prune(db, limit, self._retention)

    def page(self, tenant: str, *, size: int, token: str = "", task_filter: TaskFilter = EVERY_TASK) -> Page:
        return indexes.page(self._database, self._retention, tenant, size=size, token=token, task_filter=task_filter)

    def overview(self) -> tuple[Counters, EngineRecords]:
        with self._database.reading() as db:
            return counters.read(db), engine_states.read(db)

    def spent_microusd(self, tenant: str, day: str) -> int:
        with self._database.reading() as db:
            return counters.spent_microusd(db, tenant, day)

    def engines(self) -> EngineRecords:
        with self._database.reading() as db:
            return engine_states.read(db)

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        with self._database.transaction() as db:
            return engine_states.switch(db, engine, changes)

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        with self._database.transaction() as db:
            engine_states.save(db, engine, state)

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        with self._database.transaction() as db:
            return engine_states.swap(db, engine, before, after)
