"""What an Idempotency-Key stands for: one row, replaced when its time is over."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.ports import IdempotencyBinding
from llm_server.storage import records


def bind(
    db: sqlite3.Connection, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
) -> IdempotencyBinding:
    """Store a binding unless one stands there whose time is not over; returns the binding that holds now."""
    if earlier := bound(db, tenant, key, now_ms=now_ms):
        return earlier
    row = (tenant, key, records.encode(binding), binding.until_ms)
    db.execute("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", row)
    return binding


def bound(db: sqlite3.Connection, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
    """The binding that holds now; one whose time is over may still be stored."""
    query = "SELECT body FROM bindings WHERE (tenant, key) = (?, ?) AND until_ms > ?"
    row = db.execute(query, (tenant, key, now_ms)).fetchone()
    return records.idempotency_binding(row[0]) if row else None
