"""Removes tasks: one that a caller deletes, and those that have expired. Gives free space back to the file system."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import msgspec

from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import TaskLost
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS, SLACK_MS, SPENDING_KEPT_MS, Retention
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.schema import FINISHED_MS

EXPIRED = f"""SELECT tenant, task_id, facets, listing, body FROM tasks
    WHERE due_ms IS NULL AND {FINISHED_MS} <= ? ORDER BY {FINISHED_MS} LIMIT ?"""
MAX_PAGES = 50
"""How many pages of the file one call gives back. SQLite moves the last pages of the file into free ones first."""
MIN_FREE_PAGES = 1_000
"""How many free pages stay in the file for new tasks, at least: 4 MB. At least a tenth of the file stays free."""


class _Labelled(msgspec.Struct):
    """The part of a task's state that says which labels it has."""

    metadata: dict[str, str] = {}


_LABELLED = msgspec.json.Decoder(_Labelled)


def delete(db: sqlite3.Connection, task: Task, retention: Retention) -> None:
    """Remove a task, and record its name so that it cannot be added again. Raises TaskLost."""
    stored = task_rows.state(db, task.ref, retention)
    if stored is None or stored.rev != task.rev:
        raise TaskLost(task.task_id)
    task_rows.remove(db, task.ref, task_rows.ALL)
    task_rows.remove_labels(db, task_rows.label_rows(stored))
    row = (task.tenant, task.task_id, retention.clock() + DELETED_KEPT_MS)
    db.execute("INSERT INTO deleted VALUES (?, ?, ?)", row)


def purge(db: sqlite3.Connection, ref: TaskRef) -> None:
    """Remove an output or a text that a worker stored after its task was deleted."""
    if task_rows.is_in(db, "deleted", ref):
        task_rows.remove(db, ref, ("outputs", "deltas"))


def prune(db: sqlite3.Connection, limit: int, retention: Retention) -> bool:
    """Remove at most `limit` expired tasks; if there are fewer, other expired records too, then free pages.

    Returns whether more may be left to remove.
    """
    now_ms, keep_ms = retention.clock(), retention.keep_ms
    if keep_ms is not None and _prune_tasks(db, now_ms - keep_ms, limit) == limit:
        return True
    if keep_ms is not None and _prune_conversations(db, now_ms - SLACK_MS - keep_ms, limit) == limit:
        return True
    if _prune_others(db, now_ms, limit) == limit:
        return True
    return _give_back(db)


def _prune_tasks(db: sqlite3.Connection, finished_ms: int, limit: int) -> int:
    """Remove the tasks that ended first, and return how many were removed."""
    rows = db.execute(EXPIRED, (finished_ms, limit)).fetchall()
    remove_tasks(db, rows)
    return len(rows)


def _prune_conversations(db: sqlite3.Connection, updated_ms: int, limit: int) -> int:
    """Remove conversations that got no task since `updated_ms`, and return how many were removed."""
    expired = "SELECT rowid FROM conversations WHERE updated_ms <= ? LIMIT ?"
    return db.execute(f"DELETE FROM conversations WHERE rowid IN ({expired})", (updated_ms, limit)).rowcount


def remove_tasks(db: sqlite3.Connection, rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """Remove the tasks with these rows of `tasks` (tenant, task id, facets, listing, body), and all their texts."""
    for tenant, _, facets, listing, body in rows:
        task_rows.remove_labels(db, [(tenant, number, facets, listing) for number in _labels(body)])
    names = [(tenant, task_id) for tenant, task_id, *_ in rows]
    for table in task_rows.ALL:
        db.executemany(f"DELETE FROM {table} WHERE (tenant, task_id) = (?, ?)", names)


def _labels(body: str) -> Collection[int]:
    """Return the labels in the state of a task. A state that cannot be read has none."""
    try:
        return task_rows.labels(_LABELLED.decode(body).metadata)
    except msgspec.MsgspecError:
        return ()


def _prune_others(db: sqlite3.Connection, now_ms: int, limit: int) -> int:
    """Remove at most `limit` records of each kind, and return the largest number of one kind."""
    day = day_of(now_ms - SPENDING_KEPT_MS)
    kinds = {table: f"{table} WHERE until_ms <= :now_ms" for table in ("deleted", "bindings")}
    kinds |= {table: f"{table} WHERE day < :day" for table in ("spending", "key_spending", "key_reservations")}
    values = {"now_ms": now_ms, "day": day, "limit": limit}
    return max(
        db.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {expired} LIMIT :limit)", values).rowcount
        for table, expired in kinds.items()
    )


def _give_back(db: sqlite3.Connection) -> bool:
    """Shorten the file by at most `MAX_PAGES` pages, and return whether more can be given back.

    Some pages stay free, so that a file whose size is steady is not shortened and extended all the time. A file without
    `auto_vacuum` is not shortened (migrations.py).
    """
    free, total, mode = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count", "auto_vacuum")
    )
    spare = free - max(MIN_FREE_PAGES, total // 10)
    if spare <= 0 or not mode:
        return False
    for _ in range(min(spare, MAX_PAGES)):  # a larger number has no effect: Python ends the statement after one page
        db.execute("PRAGMA incremental_vacuum(1)")
    return bool(spare > MAX_PAGES)
