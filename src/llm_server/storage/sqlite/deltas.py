"""The text of streamed tasks: one row for each group of deltas, by the number of its last delta."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from llm_server.orchestration.domain.errors import TaskLost
from llm_server.orchestration.domain.event_numbers import rev_of
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage import deltas as stored
from llm_server.storage import records
from llm_server.storage.sqlite import task_rows


def append(db: sqlite3.Connection, ref: TaskRef, deltas: Sequence[Delta], retention: Retention) -> None:
    """Store a group. Raises TaskLost if the state has another revision than the one in whose block the numbers are."""
    task, last = task_rows.state(db, ref, retention), deltas[-1].number
    if task is None or task.rev != rev_of(last):
        raise TaskLost(ref.task_id)
    db.execute("INSERT OR REPLACE INTO deltas VALUES (?, ?, ?, ?)", (*_key(ref), last, stored.encode(deltas)))


def read(db: sqlite3.Connection, ref: TaskRef, after: int) -> list[Delta]:
    if not records.is_name(ref):
        return []
    query = "SELECT body FROM deltas WHERE (tenant, task_id) = (?, ?) AND last > ? ORDER BY last"
    rows = db.execute(query, (*_key(ref), after)).fetchall()
    return [delta for (body,) in rows for delta in stored.decode(body) if delta.number > after]


def _key(ref: TaskRef) -> tuple[str, str]:
    return ref.tenant, ref.task_id
