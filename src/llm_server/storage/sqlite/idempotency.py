"""Bindings of Idempotency-Keys, and POSTs without one that a client may repeat: one row for each.

The row of a binding is replaced once it has expired. The `key` of a POST begins with a character that no header has.
"""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.ports.repeats import Original
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


def note_original(db: sqlite3.Connection, tenant: str, fingerprint: str, original: Original) -> None:
    """Store a POST that may be repeated."""
    row = (tenant, _originals(fingerprint) + original.task_id, records.encode(original), original.until_ms)
    db.execute("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", row)


def originals(db: sqlite3.Connection, tenant: str, fingerprint: str, *, now_ms: int) -> list[Original]:
    """Return the POSTs that may be repeated at `now_ms`, oldest first. Expired ones may still be stored."""
    first = _originals(fingerprint)
    query = "SELECT body FROM bindings WHERE tenant = ? AND key BETWEEN ? AND ? AND until_ms > ?"
    rows = db.execute(query, (tenant, first, first + "~", now_ms))
    return sorted((records.original(body) for (body,) in rows), key=lambda original: original.at_ms)


def swap_original(db: sqlite3.Connection, tenant: str, fingerprint: str, before: Original, after: Original) -> bool:
    """Replace a POST if it is still `before`. Return whether it is `after` now."""
    key = _originals(fingerprint) + before.task_id
    row = db.execute("SELECT body FROM bindings WHERE (tenant, key) = (?, ?)", (tenant, key)).fetchone()
    if row == (records.encode(before),):
        note_original(db, tenant, fingerprint, after)
        return True
    return bool(row == (records.encode(after),))


def _originals(fingerprint: str) -> str:
    return f"\n{fingerprint}\n"
