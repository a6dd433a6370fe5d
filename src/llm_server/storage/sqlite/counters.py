"""Updates counts in the transaction that saves a task: totals, gauges, a tenant's spending, a key's open tasks."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.counters import NAMES, Counters, change, day_of, in_flight_change
from llm_server.orchestration.domain.task import Task


def count(db: sqlite3.Connection, before: Task | None, after: Task) -> None:
    """Count a task's change from one state to the next. `before` is None for a new task."""
    if step := in_flight_change(before, after):
        add = "INSERT INTO in_flight VALUES (?, ?) ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks"
        db.execute(add, (after.counted_for, step))
    delta = change(before, after).nonzero()
    if delta:
        db.execute(f"UPDATE counters SET {', '.join(f'{n} = {n} + ?' for n in delta)}", tuple(delta.values()))
    if cost := delta.get("cost_microusd"):
        db.execute(
            "INSERT INTO spending VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET microusd = microusd + excluded.microusd",
            (after.tenant, day_of(after.updated_ms), cost),
        )


def in_flight(db: sqlite3.Connection, key_id: str) -> int:
    """Return how many open tasks are counted for an API key."""
    row = db.execute("SELECT tasks FROM in_flight WHERE key_id = ?", (key_id,)).fetchone()
    return int(row[0]) if row else 0


def read(db: sqlite3.Connection) -> Counters:
    row = db.execute(f"SELECT {', '.join(NAMES)} FROM counters").fetchone()
    return Counters(**dict(zip(NAMES, row, strict=True)))


def spent_microusd(db: sqlite3.Connection, tenant: str, day: str) -> int:
    row = db.execute("SELECT microusd FROM spending WHERE (tenant, day) = (?, ?)", (tenant, day)).fetchone()
    return int(row[0]) if row else 0
