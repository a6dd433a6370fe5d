"""What two indexes answer: a tenant's tasks, newest first (`listing`), and what is open and due (`sure`, `open`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from llm_server.orchestration.domain.ports import Due, Page
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import FINISHED_MS, HAS_OWNER, SURE

DUE_PAGE = 100
_DUE = "SELECT due_ms, tenant, task_id FROM tasks WHERE due_ms <= ? AND ({}) AND (due_ms, tenant, task_id) > (?, ?, ?)"
_IN_ORDER = f" ORDER BY due_ms, tenant, task_id LIMIT {DUE_PAGE}"
SURE_DUE = _DUE.format(SURE) + _IN_ORDER
OTHERS_DUE = _DUE.format(f"({SURE}) IS NOT TRUE") + _IN_ORDER


def page(
    database: Database,
    retention: Retention,
    tenant: str,
    *,
    size: int,
    token: str,
    status: Status | None,
    role: str | None,
) -> Page:
    """One page; a state that this version cannot read is left out of it."""
    query = "SELECT listing, body FROM tasks WHERE tenant = ?"
    values: list[object] = [tenant]
    keep_ms = retention.keep_ms
    for condition, value in (
        ("listing < ?", records.key_of(token) if token else None),
        ("status = ?", status),
        ("role = ?", role),
        (
            f"CASE WHEN json_valid(body) THEN ifnull({FINISHED_MS} > ?, TRUE) ELSE TRUE END",
            None if keep_ms is None else retention.clock() - keep_ms,
        ),
    ):
        if value is not None:
            query += f" AND {condition}"
            values.append(value)
    with database.reading() as db:
        rows = db.execute(query + " ORDER BY listing DESC LIMIT ?", (*values, size + 1)).fetchall()
    tasks = [task for _, body in rows[:size] if (task := records.readable_task(body))]
    return Page(tasks, records.token_of(rows[size - 1][0]) if len(rows) > size else "")


def due(database: Database, now_ms: int) -> Iterator[Due]:
    """Those with a worker or a near deadline, then the others; an entry that stays due does not come again."""
    for query in (SURE_DUE, OTHERS_DUE):
        last, more = (-1, "", ""), True
        while more:
            with database.reading() as db:
                rows = db.execute(query, (now_ms, *last)).fetchall()
            yield from (Due(TaskRef(tenant, task_id), due_ms) for due_ms, tenant, task_id in rows)
            more = len(rows) == DUE_PAGE
            last = rows[-1] if more else last


def peek_each(db: sqlite3.Connection, refs: Sequence[TaskRef], retention: Retention) -> dict[TaskRef, Task | None]:
    found: dict[TaskRef, Task | None] = {}
    for ref in refs:
        if text := task_rows.body(db, ref):
            task = records.readable_task(text)
            if task is None or not retention.has_expired(task):
                found[ref] = task
    return found


def postpone(db: sqlite3.Connection, due: Due, task: Task | None, due_ms: int, retention: Retention) -> bool:
    stored = task and task_rows.state(db, due.ref, retention)
    if task and (stored is None or stored.rev != task.rev):
        return False
    where = (due_ms, due.ref.tenant, due.ref.task_id, due.due_ms)
    cursor = db.execute("UPDATE tasks SET due_ms = ? WHERE (tenant, task_id, due_ms) = (?, ?, ?)", where)
    return cursor.rowcount == 1


def end_leases(db: sqlite3.Connection, now_ms: int) -> int:
    """End every worker's lease; those that are open are due now. Returns how many."""
    query = "SELECT body FROM tasks WHERE status IN ('Processing', 'Planned', 'Cancelled')"
    query += f" AND {HAS_OWNER}"
    tasks = [task for (body,) in db.execute(query).fetchall() if (task := records.readable_task(body))]
    for task in tasks:
        ended = task.abandoned(now_ms=now_ms)
        db.execute(
            "UPDATE tasks SET due_ms = ?, body = ? WHERE (tenant, task_id) = (?, ?)",
            (None if ended.status.is_final else ended.due_ms, records.encode(ended), task.tenant, task.task_id),
        )
    return len(tasks)
