"""Queries over the indexes of `tasks`: a tenant's tasks (`listing`, `by_status`), and the due ones (`sure`, `open`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice

from llm_server.orchestration.domain.ports.listing import Page, TaskFilter
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.listing import Bounds, Round, Span, fill_page
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import HAS_OWNER, SURE

LISTING_BOUNDS = Bounds(max_round=500, max_call=5_000)
"""How many tasks a listing looks at. Between two reads, other threads can use the connection (ADR 22)."""
_LISTED = "SELECT listing, body FROM tasks WHERE tenant = ? AND {}listing >= ? AND listing < ? ORDER BY listing DESC"
LISTED = _LISTED.format("")
LISTED_BY_STATUS = _LISTED.format("status = ? AND ")

MAX_DELAY_MS = 900_000
_BY_STATUS = """WITH RECURSIVE tenants (name) AS (
        SELECT min(tenant) FROM tasks
        UNION ALL SELECT (SELECT min(tenant) FROM tasks WHERE tenant > name) FROM tenants WHERE name IS NOT NULL)
    SELECT {} FROM tenants CROSS JOIN (VALUES {}) AS wanted
    JOIN tasks INDEXED BY by_status ON (tenant, status) = (name, wanted.column1)"""
"""Reads the tasks of these statuses by the index `by_status`, tenant by tenant, and no others: most tasks are final."""
_MAY_HAVE_OWNER = "('Processing'), ('Planned'), ('Cancelled')"
_IS_RELEASED = "status = 'Queued' AND json_valid(body) AND json_extract(body, '$.notes[#-1][0]') IN ('r', 'w')"
_VISIBLE_MS = "min(json_extract(body, '$.due_ms') - ?, json_extract(body, '$.updated_ms') + ?)"
"""A task is released with a `due_ms` of a `sweep_ms` after its retry delay."""
_MESSAGE = f"tenant || '/' || task_id, CASE WHEN {_IS_RELEASED} THEN {_VISIBLE_MS} ELSE 0 END"
WAKE_UPS = f"""{_BY_STATUS.format(_MESSAGE, f"('Queued'), {_MAY_HAVE_OWNER}")}
    WHERE status = 'Queued' OR {HAS_OWNER} ORDER BY status = 'Queued', task_id"""
OWNED = f"{_BY_STATUS.format('body', _MAY_HAVE_OWNER)} WHERE {HAS_OWNER}"

DUE_PAGE = 100
_DUE = "SELECT due_ms, tenant, task_id FROM tasks WHERE due_ms <= ? AND ({}) AND (due_ms, tenant, task_id) > (?, ?, ?)"
_IN_ORDER = f" ORDER BY due_ms, tenant, task_id LIMIT {DUE_PAGE}"
SURE_DUE = _DUE.format(SURE) + _IN_ORDER
OTHERS_DUE = _DUE.format(f"({SURE}) IS NOT TRUE") + _IN_ORDER


def page(
    database: Database, retention: Retention, tenant: str, *, size: int, token: str, task_filter: TaskFilter
) -> Page:
    def read(span: Span, limit: int) -> Round:
        with database.reading() as db:
            rows = _listed(db, tenant, task_filter.possible_statuses, span, limit)
        tasks = [task for _, body in rows if (task := records.readable_task(body)) and not retention.has_expired(task)]
        return Round(tasks=tasks, end=rows[-1][0] if len(rows) == limit else "")

    return fill_page(read, task_filter, size=size, token=token, bounds=LISTING_BOUNDS)


def _listed(
    db: sqlite3.Connection, tenant: str, statuses: frozenset[Status], span: Span, limit: int
) -> list[tuple[str, str]]:
    """Return the listing keys and states of the newest tasks in a span. No other task is read from the file."""
    if statuses == frozenset(Status):
        return db.execute(f"{LISTED} LIMIT ?", (tenant, span.first, span.end, limit)).fetchall()
    each = [db.execute(LISTED_BY_STATUS, (tenant, status, span.first, span.end)) for status in sorted(statuses)]
    return list(islice(merge(*each, reverse=True), limit))


def due(database: Database, now_ms: int) -> Iterator[Due]:
    """Yield tasks with a worker or a near deadline first. A task that is still due is not yielded a second time."""
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
    if task is not None:
        stored = task_rows.state(db, due.ref, retention)
        if stored is None or stored.rev != task.rev:
            return False
    where = (due_ms, due.ref.tenant, due.ref.task_id, due.due_ms)
    cursor = db.execute("UPDATE tasks SET due_ms = ? WHERE (tenant, task_id, due_ms) = (?, ?, ?)", where)
    return cursor.rowcount == 1


def wake_ups(database: Database, sweep_ms: int) -> Iterator[tuple[str, int]]:
    """Yield a message for each task that a worker can do something for, those that had a worker first, then by age.

    A message is the task's reference as text, and the Unix milliseconds from which it is visible. No other transaction
    uses the connection during the iteration.
    """
    with database.reading() as db:
        yield from db.execute(WAKE_UPS, (sweep_ms, MAX_DELAY_MS))


def end_leases(db: sqlite3.Connection, now_ms: int) -> int:
    """End the lease of every task that has a worker, and make the open ones due now. Return how many had a worker."""
    tasks = [task for (body,) in db.execute(OWNED).fetchall() if (task := records.readable_task(body))]
    for task in tasks:
        ended = task.abandoned(now_ms=now_ms)
        db.execute(
            "UPDATE tasks SET due_ms = ?, body = ? WHERE (tenant, task_id) = (?, ?)",
            (None if ended.status.is_final else ended.due_ms, records.encode(ended), task.tenant, task.task_id),
        )
    return len(tasks)
