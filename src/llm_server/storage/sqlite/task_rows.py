"""The rows of one task: its state in `tasks`, its request in `requests`, its outputs in `outputs`, and its `labels`.

The text of streamed tasks: deltas.py.

`tasks.facets` holds the values that a listing can filter by, apart from metadata. Each pair of metadata is a row of
`labels`, by which a listing finds the task (ADR 24).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec

from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.snapshot import Request, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.listing import listing_key

ALL = ("tasks", "requests", "outputs", "deltas")
_INSERT = """INSERT INTO tasks SELECT ?, ?, ?, ?, ?, ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM deleted WHERE (tenant, task_id) = (?, ?)) ON CONFLICT DO NOTHING"""
_UPDATE = "UPDATE tasks SET status = ?, role = ?, due_ms = ?, body = ?, facets = ? WHERE (tenant, task_id) = (?, ?)"
_SNAPSHOT = """SELECT '', body FROM tasks WHERE (tenant, task_id) = (?1, ?2)
    UNION ALL SELECT NULL, body FROM requests WHERE (tenant, task_id) = (?1, ?2)
    UNION ALL SELECT key, body FROM outputs WHERE (tenant, task_id) = (?1, ?2)"""
"""One statement, because other threads run between two: Python gives up its lock for each."""


class Facets(NamedTuple):
    """What a listing can filter a task by, apart from metadata. In `labels`, the status of an open task is None."""

    status: Status | None
    role: str
    mode: Mode
    engine: str | None
    awaits_approval: bool


_ENCODER = msgspec.json.Encoder()
_FACETS = msgspec.json.Decoder(Facets)


def facets(task: Task) -> str:
    """Return a task's facets as they are stored in `tasks`."""
    return _text(Facets(task.status, task.role, task.mode, task.engine, task.awaits_approval))


def label_facets(task: Task) -> str:
    """Return a task's facets as they are stored in `labels`: for an open task those that do not change.

    So the rows of a label change only when a task ends, or is retried.
    """
    return facets(task) if task.status.is_final else _text(Facets(None, task.role, task.mode, None, False))


def parse_facets(text: str) -> Facets | None:
    """Read stored facets. Returns None if this version does not know a value."""
    try:
        return _FACETS.decode(text)
    except msgspec.MsgspecError:
        return None


def label(key: str, value: str) -> int:
    """Return the number that stands for a pair of metadata. Different pairs rarely have the same number."""
    return crc32(f"{key}\0{value}".encode(errors="surrogatepass"))


def labels(metadata: Mapping[str, str]) -> set[int]:
    return {label(key, value) for key, value in metadata.items()}


def label_rows(task: Task) -> Iterable[tuple[str, int, str, str]]:
    """Return a task's rows of `labels`."""
    place = label_facets(task), listing_key(task)
    return [(task.tenant, number, *place) for number in labels(task.metadata)]


def insert(db: sqlite3.Connection, task: Task, request: Request) -> bool:
    """Store a new task. Returns False, with nothing stored, if a task with its name is stored or was deleted."""
    columns = (task.status, task.role, listing_key(task), task.next_look_ms, records.encode(task), facets(task))
    key = (task.tenant, task.task_id)
    if not db.execute(_INSERT, (*key, *columns, *key)).rowcount:
        return False
    db.execute("INSERT INTO requests VALUES (?, ?, ?)", (*key, records.encode(request)))
    if task.metadata:
        db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?)", label_rows(task))
    return True


def update(db: sqlite3.Connection, before: Task, after: Task) -> bool:
    """Replace the state of a task. Returns False, with nothing stored, if the stored state is not `before`.

    States are compared as text first, which needs no read. The text of another version may differ; then `rev` decides.
    """
    due_ms = None if after.status.is_final else after.next_look_ms
    columns = (after.status, after.role, due_ms, records.encode(after), facets(after))
    key = (after.tenant, after.task_id)
    if not db.execute(f"{_UPDATE} AND body = ?", (*columns, *key, records.encode(before))).rowcount:
        if not holds(db, before):
            return False
        db.execute(_UPDATE, (*columns, *key))
    if before.metadata and label_facets(before) != label_facets(after):
        move = "UPDATE OR REPLACE labels SET facets = ? WHERE (tenant, label, facets, listing) = (?, ?, ?, ?)"
        db.executemany(move, [(label_facets(after), *row) for row in label_rows(before)])
    return True


def holds(db: sqlite3.Connection, before: Task) -> bool:
    """Return whether the stored state has the `rev` of `before`."""
    text = body(db, before.ref)
    return text is not None and records.task(text).rev == before.rev


def snapshot(db: sqlite3.Connection, ref: TaskRef) -> Snapshot | None:
    """Return everything stored about a task, or None if no task has this name."""
    if not records.is_name(ref):
        return None
    rows = db.execute(_SNAPSHOT, (ref.tenant, ref.task_id)).fetchall()
    if not rows or rows[0][0] != "":  # outputs alone: they were stored after the task was deleted
        return None
    (_, task), (_, request), *outputs = rows
    return Snapshot(
        task=records.task(task),
        request=records.request(request),
        outputs={records.parse_output_key(name): records.output(body) for name, body in outputs},
    )


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


def is_known(db: sqlite3.Connection, ref: TaskRef) -> bool:
    """Return whether a task with this name is stored, or was deleted recently."""
    return is_in(db, "tasks", ref) or is_in(db, "deleted", ref)


def is_in(db: sqlite3.Connection, table: str, ref: TaskRef) -> bool:
    query = f"SELECT 1 FROM {table} WHERE (tenant, task_id) = (?, ?)"
    return db.execute(query, (ref.tenant, ref.task_id)).fetchone() is not None


def keep(db: sqlite3.Connection, ref: TaskRef, output: Output) -> None:
    row = (ref.tenant, ref.task_id, records.output_key_text(output.key), records.encode(output))
    db.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)", row)


def result(db: sqlite3.Connection, task: Task, last: Output | None) -> str | None:
    """Return the answer of a Completed task, and None for any other task. `last` was stored together with its state."""
    if task.answer_fence is None:
        return None
    if last is not None:
        return last.text
    key = records.output_key_text(OutputKey.of_answer(task.answer_fence))
    query = "SELECT body FROM outputs WHERE (tenant, task_id, key) = (?, ?, ?)"
    row = db.execute(query, (task.tenant, task.task_id, key)).fetchone()
    return records.output(row[0]).text if row else None


def remove(db: sqlite3.Connection, ref: TaskRef, tables: Sequence[str]) -> None:
    for table in tables:
        db.execute(f"DELETE FROM {table} WHERE (tenant, task_id) = (?, ?)", (ref.tenant, ref.task_id))


def remove_labels(db: sqlite3.Connection, rows: Iterable[tuple[str, int, str, str]]) -> None:
    db.executemany("DELETE FROM labels WHERE (tenant, label, facets, listing) = (?, ?, ?, ?)", rows)


def _text(values: Facets) -> str:
    return msgspec.json.encode(values).decode()
