"""The rows of one task: its state in `tasks`, its request in `requests`, and its outputs in `outputs`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records

ALL = ("tasks", "requests", "outputs")


def body(db: sqlite3.Connection, ref: TaskRef) -> str | None:
    """Return a task's state as it is stored, or None if no task has this name."""
    if not records.is_name(ref):
        return None
    query = "SELECT body FROM tasks WHERE (tenant, task_id) = (?, ?)"
    row = db.execute(query, (ref.tenant, ref.task_id)).fetchone()
    return str(row[0]) if row else None


def state(db: sqlite3.Connection, ref: TaskRef, retention: Retention) -> Task | None:
    """Return a task's state, or None if no task has this name or the task has expired."""
    text = body(db, ref)
    task = records.task(text) if text else None
    return None if task is None or retention.has_expired(task) else task


def is_in(db: sqlite3.Connection, table: str, ref: TaskRef) -> bool:
    query = f"SELECT 1 FROM {table} WHERE (tenant, task_id) = (?, ?)"
    return db.execute(query, (ref.tenant, ref.task_id)).fetchone() is not None


def keep(db: sqlite3.Connection, ref: TaskRef, output: Output) -> None:
    row = (ref.tenant, ref.task_id, records.output_key_text(output.key), records.encode(output))
    db.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)", row)


def remove(db: sqlite3.Connection, ref: TaskRef, tables: Sequence[str]) -> None:
    for table in tables:
        db.execute(f"DELETE FROM {table} WHERE (tenant, task_id) = (?, ?)", (ref.tenant, ref.task_id))
