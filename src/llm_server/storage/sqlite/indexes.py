"""Queries over indexes: a tenant's tasks (`listing`, `by_facets` and `labels`), and what is due (`sure`, `open`)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.ports.listing import EVERY_TASK, Page, TaskFilter
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import listing, records
from llm_server.storage.listing import Bounds, Round, Span, fill_page
from llm_server.storage.sqlite import task_rows
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.schema import HAS_OWNER, SURE

LISTING_BOUNDS = Bounds(max_round=100, max_call=400)
"""How many states a listing reads. Each round is a transaction of its own."""
MAX_COMPARED = 800
"""How many tasks with one label a round compares with the other labels of a filter."""
LISTED = "SELECT listing, body FROM tasks WHERE tenant = ? AND listing >= ? AND listing < ? ORDER BY listing DESC"
OF_ALL = "tasks WHERE tenant = ? AND "
OF_LABEL = "labels WHERE tenant = ? AND label = ? AND "
COUNT = f"SELECT count(*) FROM (SELECT 1 FROM {OF_LABEL} 1 LIMIT 1000)"
_SPAN = "facets = ? AND listing >= ? AND listing < ?"
OTHER_LABEL = """ AND EXISTS (SELECT 1 FROM labels AS other WHERE other.tenant = labels.tenant AND other.label = ?
    AND other.facets = labels.facets AND other.listing = labels.listing)"""
STATES = """SELECT tasks.body FROM json_each(?) AS ids CROSS JOIN tasks
    ON tasks.tenant = ? AND tasks.task_id = ids.value ORDER BY ids.key"""

MAX_DELAY_MS = 900_000
_BY_STATUS = """WITH RECURSIVE tenants (name) AS (
        SELECT min(tenant) FROM tasks
        UNION ALL SELECT (SELECT min(tenant) FROM tasks WHERE tenant > name) FROM tenants WHERE name IS NOT NULL)
    SELECT {} FROM tenants CROSS JOIN (VALUES {}) AS wanted
    JOIN tasks INDEXED BY by_facets ON tenant = name
        AND facets >= '["' || wanted.column1 || '"' AND facets < '["' || wanted.column1 || '#'"""
"""Reads the tasks of these statuses by the index `by_facets`, tenant by tenant, and no others: most tasks are final.

Facets begin with the status in quotes, and `#` is the character after the quotation mark.
"""
_MAY_HAVE_OWNER = "('Processing'), ('Planned'), ('Cancelled')"
_IS_RELEASED = "status = 'Queued' AND json_valid(body) AND json_extract(body, '$.notes[#-1][0]') IN ('r', 'w')"
_VISIBLE_MS = "ifnull(min(json_extract(body, '$.due_ms') - ?, json_extract(body, '$.updated_ms') + ?), 0)"
"""A task is released with a `due_ms` of a `sweep_ms` after its retry delay. A damaged one may lack the times."""
_IS_BATCH = f"json_valid(body) AND json_extract(body, '$.priority') = '{Priority.BATCH}'"
_PRIORITY = f"CASE WHEN {_IS_BATCH} THEN '{Priority.BATCH}' ELSE '{Priority.INTERACTIVE}' END"
_MESSAGE = f"tenant || '/' || task_id, CASE WHEN {_IS_RELEASED} THEN {_VISIBLE_MS} ELSE 0 END, {_PRIORITY}"
WAKE_UPS = f"""{_BY_STATUS.format(_MESSAGE, f"('Queued'), {_MAY_HAVE_OWNER}")}
    WHERE status = 'Queued' OR {HAS_OWNER} ORDER BY status = 'Queued', task_id"""
OWNED = f"{_BY_STATUS.format('body', _MAY_HAVE_OWNER)} WHERE {HAS_OWNER}"

DUE_PAGE = 100
_DUE = "SELECT due_ms, tenant, task_id FROM tasks WHERE due_ms <= ? AND ({}) AND (due_ms, tenant, task_id) > (?, ?, ?)"
_IN_ORDER = f" ORDER BY due_ms, tenant, task_id LIMIT {DUE_PAGE}"
SURE_DUE = _DUE.format(SURE) + _IN_ORDER
OTHERS_DUE = _DUE.format(f"({SURE}) IS NOT TRUE") + _IN_ORDER


class _Source(Struct, frozen=True, kw_only=True):
    """An index in which a filter finds its tasks: `by_facets` of the tasks, or the rows of one label.

    `facets` are the values that the filter admits. The tasks with one of them are a part of the index, in the order of
    the list. `also` are the other labels that a task needs.
    """

    rows: str
    values: tuple[str | int, ...]
    facets: Sequence[str]
    also: Sequence[int]


def page(
    database: Database, retention: Retention, tenant: str, *, size: int, token: str, task_filter: TaskFilter
) -> Page:
    read = _reader(database, retention, tenant, task_filter)
    return fill_page(read, task_filter, size=size, token=token, bounds=LISTING_BOUNDS)


def newest(
    database: Database, retention: Retention, tenant: str, *, most: int, task_filter: TaskFilter
) -> Sequence[Task]:
    read = _reader(database, retention, tenant, task_filter)
    return listing.newest(read, task_filter, most=most, max_round=LISTING_BOUNDS.max_round)


def _reader(
    database: Database, retention: Retention, tenant: str, task_filter: TaskFilter
) -> Callable[[Span, int], Round]:
    """Return the function that reads up to so many tasks at the end of a span."""
    source = None
    if replace(task_filter, created_from_ms=0, created_to_ms=None) != EVERY_TASK:
        with database.reading() as db:
            source = _source(db, tenant, task_filter)

    def read(span: Span, limit: int) -> Round:
        with database.reading() as db:
            bodies, end = _found(db, tenant, source, span, limit) if source else _newest(db, tenant, span, limit)
        tasks = [task for body in bodies if (task := records.readable_task(body)) and not retention.has_expired(task)]
        return Round(tasks=tasks, end=end)

    return read


def _newest(db: sqlite3.Connection, tenant: str, span: Span, limit: int) -> tuple[list[str], str]:
    """Return up to `limit` states at the end of a span, and the listing key where the next read continues."""
    rows = db.execute(f"{LISTED} LIMIT ?", (tenant, span.first, span.end, limit)).fetchall()
    return [body for _, body in rows], rows[-1][0] if len(rows) == limit else ""


def _source(db: sqlite3.Connection, tenant: str, task_filter: TaskFilter) -> _Source:
    """Choose the label with the fewest tasks, as far as they are counted."""
    numbers = sorted(task_rows.labels(task_filter.metadata))
    if len(numbers) > 1:
        numbers.sort(key=lambda number: db.execute(COUNT, (tenant, number)).fetchone())
    rows, values = (OF_LABEL, (tenant, numbers[0])) if numbers else (OF_ALL, (tenant,))
    facets = [text for text in _all_facets(db, rows, values) if _admits(task_filter, text)]
    return _Source(rows=rows, values=values, facets=facets, also=numbers[1:])


def _all_facets(db: sqlite3.Connection, rows: str, values: tuple[str | int, ...]) -> Iterator[str]:
    """Yield each value of facets in an index once, with one look-up for each."""
    facets = ""
    while facets := db.execute(f"SELECT min(facets) FROM {rows}facets > ?", (*values, facets)).fetchone()[0]:
        yield facets


def _admits(task_filter: TaskFilter, text: str) -> bool:
    """Return whether a filter may admit tasks with these facets. Of open tasks in `labels`, only some are known."""
    facets = task_rows.parse_facets(text)
    if facets is None:
        return False
    status, role, mode, engine, awaits_approval = facets
    if status is not None:
        return task_filter.admits(status, role, mode, engine, awaits_approval=awaits_approval)
    is_open_wanted = any(not status.is_final for status in task_filter.possible_statuses)
    return is_open_wanted and task_filter.role in (None, role) and task_filter.mode in (None, mode)


def _found(db: sqlite3.Connection, tenant: str, source: _Source, span: Span, limit: int) -> tuple[list[str], str]:
    """Return up to `limit` states at the end of a span, and the listing key where the next read continues."""
    first = _compared_from(db, source, span)
    others = "".join(OTHER_LABEL for _ in source.also)
    query = f"SELECT listing FROM {source.rows}{_SPAN}{others} ORDER BY listing DESC LIMIT ?"
    keys: list[str] = []
    for facets in source.facets:
        oldest = keys[-1] if len(keys) == limit else first
        found = db.execute(query, (*source.values, facets, oldest, span.end, *source.also, limit))
        keys = sorted([*keys, *(key for (key,) in found)], reverse=True)[:limit]
    ids = json.dumps([key.partition("#")[2] for key in keys])
    bodies = [body for (body,) in db.execute(STATES, (ids, tenant))]
    if len(keys) == limit:
        return bodies, keys[-1]
    return bodies, first if first > span.first else ""


def _compared_from(db: sqlite3.Connection, source: _Source, span: Span) -> str:
    """Return the listing key down to which a round compares labels: those of about `MAX_COMPARED` tasks."""
    if not source.also or not source.facets:
        return span.first
    query = f"SELECT listing FROM {source.rows}{_SPAN} ORDER BY listing DESC LIMIT 1 OFFSET ?"
    skipped = max(1, MAX_COMPARED // len(source.facets))
    values = (span.first, span.end, skipped)
    rows = [db.execute(query, (*source.values, facets, *values)).fetchone() for facets in source.facets]
    return max([span.first, *(str(row[0]) for row in rows if row)])


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


def wake_ups(database: Database, sweep_ms: int) -> Iterator[tuple[str, int, str]]:
    """Yield a message for each task that a worker can do something for, those that had a worker first, then by age.

    A message is the task's reference as text, the Unix milliseconds from which it is visible, and the task's priority.
    All are read in one transaction, which stays open during the iteration.
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
