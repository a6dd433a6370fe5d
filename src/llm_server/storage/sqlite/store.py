"""The embedded store. An acknowledged write survives a power cut (synchronous=FULL)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from llm_server.orchestration.domain.counters import Counters, change, day_of, in_flight_change
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, EngineSwitch, SwitchName
from llm_server.orchestration.domain.errors import RecordUnreadable, TaskLost, TaskNotFound, TooManyInFlight
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports import Due, KeyBinding, Page
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS, SPENDING_KEPT_MS, Retention
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.sqlite import due_tasks as sqlite_open
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import FINISHED_MS

COUNTERS = [f.name for f in fields(Counters)]
EXPIRED = f"SELECT tenant, task_id FROM tasks WHERE due_ms IS NULL AND {FINISHED_MS} <= ?"


class SqliteStore:
    """The Store port over a SQLite file."""

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self._database = Database(path, durable=True)
        self._retention = retention or Retention()

    def close(self) -> None:
        self._database.close()

    def bind_key(self, tenant: str, key: str, binding: KeyBinding, *, now_ms: int) -> KeyBinding:
        with self._database.transaction() as db:
            if bound := self._bound(db, tenant, key, now_ms):
                return bound
            new = (tenant, key, records.encode(binding), binding.until_ms)
            db.execute("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", new)
        return binding

    def bound_key(self, tenant: str, key: str, *, now_ms: int) -> KeyBinding | None:
        with self._database.reading() as db:
            return self._bound(db, tenant, key, now_ms)

    def add(self, task: Task, request: Request, *, most_in_flight: int | None = None) -> bool:
        with self._database.transaction() as db:
            key = (task.tenant, task.task_id)
            if any(self._is_in(db, table, task.ref) for table in ("tasks", "deleted")):
                return False
            if most_in_flight is not None and self._in_flight(db, task.counted_for) >= most_in_flight:
                raise TooManyInFlight(most_in_flight)
            db.execute("INSERT INTO requests VALUES (?, ?, ?)", (*key, records.encode(request)))
            row = (*key, task.status, task.role, records.listing_key(task), task.next_look_ms, records.encode(task))
            db.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._count(db, None, task)
        return True

    def get(self, ref: TaskRef) -> Snapshot:
        key = (ref.tenant, ref.task_id)
        with self._database.reading() as db:
            task = self._state(db, ref)
            if task is None:
                raise TaskNotFound
            (request,) = db.execute("SELECT body FROM requests WHERE (tenant, task_id) = (?, ?)", key).fetchone()
            rows = db.execute("SELECT key, body FROM outputs WHERE (tenant, task_id) = (?, ?)", key).fetchall()
        outputs = {records.parse_output_key(name): records.output(body) for name, body in rows}
        return Snapshot(task=task, request=records.request(request), outputs=outputs)

    def peek(self, ref: TaskRef) -> Task:
        with self._database.reading() as db:
            task = self._state(db, ref)
        if task is None:
            raise TaskNotFound
        return task

    def save(
        self, before: Task, after: Task, output: Output | None = None, *, most_in_flight: int | None = None
    ) -> None:
        with self._database.transaction() as db:
            stored = self._state(db, after.ref)
            if stored == after:
                return
            if stored is None or stored.rev != before.rev:
                raise TaskLost(after.task_id)
            if most_in_flight is not None and self._in_flight(db, after.counted_for) >= most_in_flight:
                raise TooManyInFlight(most_in_flight)
            due_ms = None if after.status.is_final else after.next_look_ms
            db.execute(
                "UPDATE tasks SET status = ?, role = ?, due_ms = ?, body = ? WHERE (tenant, task_id) = (?, ?)",
                (after.status, after.role, due_ms, records.encode(after), after.tenant, after.task_id),
            )
            if output is not None:
                self._keep(db, after.ref, output)
            self._count(db, before, after)

    def keep(self, ref: TaskRef, output: Output) -> None:
        with self._database.transaction() as db:
            self._keep(db, ref, output)

    def delete(self, task: Task) -> None:
        with self._database.transaction() as db:
            stored = self._state(db, task.ref)
            if stored is None or stored.rev != task.rev:
                raise TaskLost(task.task_id)
            self._remove(db, task.ref, ("tasks", "requests", "outputs"))
            row = (task.tenant, task.task_id, self._retention.clock() + DELETED_KEPT_MS)
            db.execute("INSERT INTO deleted VALUES (?, ?, ?)", row)

    def purge(self, ref: TaskRef) -> None:
        with self._database.transaction() as db:
            if self._is_in(db, "deleted", ref):
                self._remove(db, ref, ("outputs",))

    def retain(self, task: Task) -> None:
        """Nothing here expires before `prune` removes it with its task."""

    def prune(self, limit: int) -> None:
        now_ms, keep_ms = self._retention.clock(), self._retention.keep_ms
        with self._database.transaction() as db:
            for table in ("deleted", "bindings"):
                db.execute(f"DELETE FROM {table} WHERE until_ms <= ?", (now_ms,))
            for table in ("spending", "key_spending", "key_reservations"):
                db.execute(f"DELETE FROM {table} WHERE day < ?", (day_of(now_ms - SPENDING_KEPT_MS),))
            if keep_ms is not None:
                found = db.execute(f"{EXPIRED} LIMIT ?", (now_ms - keep_ms, limit)).fetchall()
                for tenant, task_id in found:
                    self._remove(db, TaskRef(tenant, task_id), ("tasks", "requests", "outputs"))

    @staticmethod
    def _bound(db: sqlite3.Connection, tenant: str, key: str, now_ms: int) -> KeyBinding | None:
        query = "SELECT body FROM bindings WHERE (tenant, key) = (?, ?) AND until_ms > ?"
        row = db.execute(query, (tenant, key, now_ms)).fetchone()
        return records.key_binding(row[0]) if row else None

    @staticmethod
    def _is_in(db: sqlite3.Connection, table: str, ref: TaskRef) -> bool:
        query = f"SELECT 1 FROM {table} WHERE (tenant, task_id) = (?, ?)"
        return db.execute(query, (ref.tenant, ref.task_id)).fetchone() is not None

    @staticmethod
    def _remove(db: sqlite3.Connection, ref: TaskRef, tables: tuple[str, ...]) -> None:
        for table in tables:
            db.execute(f"DELETE FROM {table} WHERE (tenant, task_id) = (?, ?)", (ref.tenant, ref.task_id))

    def peek_each(self, refs: Sequence[TaskRef]) -> dict[TaskRef, Task | None]:
        found: dict[TaskRef, Task | None] = {}
        with self._database.reading() as db:
            for ref in refs:
                try:
                    task = self._state(db, ref)
                except RecordUnreadable:
                    found[ref] = None
                else:
                    found |= {} if task is None else {ref: task}
        return found

    def due(self, now_ms: int) -> Iterator[Due]:
        return sqlite_open.due(self._database, now_ms)

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        where = (due_ms, due.ref.tenant, due.ref.task_id, due.due_ms)
        with self._database.transaction() as db:
            stored = task and self._state(db, due.ref)
            if task and (stored is None or stored.rev != task.rev):
                return False
            cursor = db.execute("UPDATE tasks SET due_ms = ? WHERE (tenant, task_id, due_ms) = (?, ?, ?)", where)
            return cursor.rowcount == 1

    def end_leases(self, now_ms: int) -> int:
        """End the lease of every task that a worker had; for a process that knows it is the only one.

        Those that are open are due now. Returns how many.
        """
        query = "SELECT body FROM tasks WHERE status IN ('Processing', 'Planned', 'Cancelled')"
        query += " AND json_extract(body, '$.owner') <> ''"
        with self._database.transaction() as db:
            found = [records.readable_task(body) for (body,) in db.execute(query).fetchall()]
            tasks = [task for task in found if task is not None]
            for task in tasks:
                ended = task.abandoned(now_ms=now_ms)
                db.execute(
                    "UPDATE tasks SET due_ms = ?, body = ? WHERE (tenant, task_id) = (?, ?)",
                    (None if ended.status.is_final else ended.due_ms, records.encode(ended), task.tenant, task.task_id),
                )
        return len(tasks)

    def page(self, tenant: str, *, size: int, token: str, status: Status | None, role: str | None) -> Page:
        query = "SELECT body FROM tasks WHERE tenant = ?"
        values: list[object] = [tenant]
        keep_ms = self._retention.keep_ms
        for condition, value in (
            ("listing < ?", records.key_of(token) if token else None),
            ("status = ?", status),
            ("role = ?", role),
            (f"ifnull({FINISHED_MS} > ?, TRUE)", None if keep_ms is None else self._retention.clock() - keep_ms),
        ):
            if value is not None:
                query += f" AND {condition}"
                values.append(value)
        with self._database.reading() as db:
            rows = db.execute(query + " ORDER BY listing DESC LIMIT ?", (*values, size + 1)).fetchall()
        tasks = [records.task(body) for (body,) in rows]
        more = len(tasks) > size
        return Page(tasks[:size], records.token_of(records.listing_key(tasks[size - 1])) if more else "")

    def overview(self) -> tuple[Counters, EngineRecords]:
        with self._database.reading() as db:
            row = db.execute(f"SELECT {', '.join(COUNTERS)} FROM counters").fetchone()
            engines = self._engines(db)
        return Counters(**dict(zip(COUNTERS, row, strict=True))), engines

    def spent_microusd(self, tenant: str, day: str) -> int:
        query = "SELECT microusd FROM spending WHERE (tenant, day) = (?, ?)"
        with self._database.reading() as db:
            row = db.execute(query, (tenant, day)).fetchone()
        return row[0] if row else 0

    def engines(self) -> EngineRecords:
        with self._database.reading() as db:
            return self._engines(db)

    def switch_engine(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        with self._database.transaction() as db:
            switch = self._engines(db).switches.get(engine, EngineSwitch()).changed(changes)
            db.execute("INSERT OR REPLACE INTO switches VALUES (?, ?)", (engine, records.encode(switch)))
            return self._engines(db)

    def save_engine_state(self, engine: str, state: EngineState) -> None:
        with self._database.transaction() as db:
            db.execute("INSERT OR REPLACE INTO engines VALUES (?, ?)", (engine, records.encode(state)))

    def swap_engine_state(self, engine: str, before: EngineState, after: EngineState) -> bool:
        with self._database.transaction() as db:
            if self._engines(db).state(engine) != before:
                return False
            db.execute("INSERT OR REPLACE INTO engines VALUES (?, ?)", (engine, records.encode(after)))
            return True

    @staticmethod
    def _engines(db: sqlite3.Connection) -> EngineRecords:
        states = db.execute("SELECT name, body FROM engines").fetchall()
        switches = db.execute("SELECT name, body FROM switches").fetchall()
        return EngineRecords(
            states={name: records.engine_state(body) for name, body in states},
            switches={name: records.engine_switch(body) for name, body in switches},
        )

    def _state(self, db: sqlite3.Connection, ref: TaskRef) -> Task | None:
        if not records.is_name(ref):
            return None
        query = "SELECT body FROM tasks WHERE (tenant, task_id) = (?, ?)"
        row = db.execute(query, (ref.tenant, ref.task_id)).fetchone()
        task = records.task(row[0]) if row else None
        return None if task is None or self._retention.has_expired(task) else task

    @staticmethod
    def _keep(db: sqlite3.Connection, ref: TaskRef, output: Output) -> None:
        row = (ref.tenant, ref.task_id, records.output_key_text(output.key), records.encode(output))
        db.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)", row)

    @staticmethod
    def _in_flight(db: sqlite3.Connection, key_id: str) -> int:
        row = db.execute("SELECT tasks FROM in_flight WHERE key_id = ?", (key_id,)).fetchone()
        return int(row[0]) if row else 0

    @staticmethod
    def _count(db: sqlite3.Connection, before: Task | None, after: Task) -> None:
        if step := in_flight_change(before, after):
            add = "INSERT INTO in_flight VALUES (?, ?) ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks"
            db.execute(add, (after.counted_for, step))
        delta = change(before, after).nonzero()
        if delta:
            db.execute(f"UPDATE counters SET {', '.join(f'{n} = {n} + ?' for n in delta)}", tuple(delta.values()))
        if cost := delta.get("cost_microusd"):
            db.execute(
                "INSERT INTO spending VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET microusd = microusd + excluded.microusd",
                (after.tenant, day_of(after.updated_ms), cost),
            )
