"""Removes tasks: one that a caller deletes, and those that have expired."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import TaskLost
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS, SPENDING_KEPT_MS, Retention
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.schema import FINISHED_MS

EXPIRED = f"SELECT tenant, task_id FROM tasks WHERE due_ms IS NULL AND {FINISHED_MS} <= ?"


def delete(db: sqlite3.Connection, task: Task, retention: Retention) -> None:
    """Remove a task, and record its name so that it cannot be added again. Raises TaskLost."""
    stored = task_rows.state(db, task.ref, retention)
    if stored is None or stored.rev != task.rev:
        raise TaskLost(task.task_id)
    task_rows.remove(db, task.ref, task_rows.ALL)
    row = (task.tenant, task.task_id, retention.clock() + DELETED_KEPT_MS)
    db.execute("INSERT INTO deleted VALUES (?, ?, ?)", row)


def purge(db: sqlite3.Connection, ref: TaskRef) -> None:
    """Remove an output that a worker stored after its task was deleted."""
    if task_rows.is_in(db, "deleted", ref):
        task_rows.remove(db, ref, ("outputs",))


def prune(db: sqlite3.Connection, limit: int, retention: Retention) -> None:
    """Remove at most `limit` expired tasks, and all other expired records."""
    now_ms, keep_ms = retention.clock(), retention.keep_ms
    for table in ("deleted", "bindings"):
        db.execute(f"DELETE FROM {table} WHERE until_ms <= ?", (now_ms,))
    for table in ("spending", "key_spending", "key_reservations"):
        db.execute(f"DELETE FROM {table} WHERE day < ?", (day_of(now_ms - SPENDING_KEPT_MS),))
    if keep_ms is not None:
        for tenant, task_id in db.execute(f"{EXPIRED} LIMIT ?", (now_ms - keep_ms, limit)).fetchall():
            task_rows.remove(db, TaskRef(tenant, task_id), task_rows.ALL)
