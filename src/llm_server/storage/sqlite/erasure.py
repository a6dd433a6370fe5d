"""Removes everything that is stored for a tenant, in small transactions with pauses, in which a server can write.

SQLite overwrites what is deleted (`secure_delete`), and the log is emptied at the end. But when SQLite moves rows from
one page to another, it may leave a copy in the unused bytes of a page; only `Database.empty_log(rewrite=True)`
removes it.
"""

from __future__ import annotations

import sqlite3
import time

from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS
from llm_server.storage import records
from llm_server.storage.sqlite import deletions
from llm_server.storage.sqlite.connections.writer import T, Work
from llm_server.storage.sqlite.database import Database

MAX_TASKS = 50
"""How many tasks a transaction removes."""
MAX_RECORDS = 500
"""How many other records a transaction removes."""
MIN_PAUSE_S = 0.005
"""The shortest pause between two transactions. SQLite looks for a free lock after 1, 2, 5, 10 ms, and so on."""

_TASKS = f"""SELECT tenant, task_id, facets, listing, body FROM tasks
    WHERE tenant = ? AND task_id > ? ORDER BY task_id LIMIT {MAX_TASKS}"""
_NO_TASK = "NOT EXISTS (SELECT 1 FROM tasks WHERE (tasks.tenant, tasks.task_id) = (left.tenant, left.task_id))"
_NO_LISTED = "NOT EXISTS (SELECT 1 FROM tasks WHERE (tasks.tenant, tasks.listing) = (labels.tenant, labels.listing))"


class _Pauses:
    """A database with a pause after each write that is as long as the write: another process waits for its turn."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, work: Work[T]) -> T:
        start_s = time.monotonic()
        result = self._database.write(work)
        time.sleep(max(MIN_PAUSE_S, time.monotonic() - start_s))
        return result


def erase(database: Database, tenant: str, now_ms: int) -> Erased:
    """Remove everything of a tenant except tasks in use, and the names of its deleted tasks."""
    file, erased, last = _Pauses(database), Erased(), ""
    while True:
        some, last = file.write(lambda db: _erase_tasks(db, tenant, last, now_ms))  # noqa: B023 - called at once
        erased += some
        if not last:
            break
    for texts in ("requests", "outputs", "deltas"):
        _erase_rows(file, texts, tenant, _NO_TASK)
    file.write(lambda db: db.execute(f"DELETE FROM labels WHERE tenant = ? AND {_NO_LISTED}", (tenant,)))
    erased += Erased(
        idempotency_keys=_erase_rows(file, "bindings", tenant),
        days_of_spending=_erase_rows(file, "spending", tenant),
        conversations=_erase_rows(file, "conversations", tenant),
    )
    database.empty_log()
    return erased


def _erase_tasks(db: sqlite3.Connection, tenant: str, last: str, now_ms: int) -> tuple[Erased, str]:
    """Remove the tasks that follow the id `last`. Return the id where the next call continues, "" at the end."""
    rows = db.execute(_TASKS, (tenant, last)).fetchall()
    gone = [row for row in rows if not _is_in_use(row[-1], now_ms)]
    deletions.remove_tasks(db, gone)
    names = [(tenant, task_id, now_ms + DELETED_KEPT_MS) for _, task_id, *_ in gone]
    db.executemany("INSERT OR REPLACE INTO deleted VALUES (?, ?, ?)", names)
    erased = Erased(tasks=len(gone), in_use=len(rows) - len(gone))
    return erased, rows[-1][1] if len(rows) == MAX_TASKS else ""


def _is_in_use(body: str, now_ms: int) -> bool:
    task = records.readable_task(body)
    return task is not None and task.is_in_use(now_ms)


def _erase_rows(file: _Pauses, table: str, tenant: str, condition: str = "TRUE") -> int:
    """Remove a tenant's rows of a table, and return how many there were."""
    chosen = f"SELECT rowid FROM {table} AS left WHERE tenant = ? AND {condition} LIMIT {MAX_RECORDS}"

    def work(db: sqlite3.Connection) -> int:
        return db.execute(f"DELETE FROM {table} WHERE rowid IN ({chosen})", (tenant,)).rowcount

    total = 0
    while number := file.write(work):
        total += number
    return total
