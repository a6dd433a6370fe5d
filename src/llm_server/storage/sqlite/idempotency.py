"""Bindings of Idempotency-Keys: one row for each key, replaced once the binding has expired."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.storage import records


def bind(
    db: sqlite3.Connection, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
) -> IdempotencyBinding:
    """Store a binding, unless an earlier one is in force. Return the binding that is in force after the call."""
    if earlier := bound(db, tenant, key, now_ms=now_ms):
        return earlier
    row = (tenant, key, records.encode(binding), binding.until_ms)
    db.execute("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", row)
    return binding


def bound(db: sqlite3.Connection, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
    """Return the binding that is in force at `now_ms`. An expired one may still be stored; it is ignored."""
    query = "SELECT body FROM bindings WHERE (tenant, key) = (?, ?) AND until_ms > ?"
    row = db.execute(query, (tenant, key, now_ms)).fetchone()
    return records.idempotency_binding(row[0]) if row else None
