"""The tables and indexes of version 2, and the words that an index shares with its queries.

What comes after version 2 is added by migrations (migrations.py), also in new files.
"""

from __future__ import annotations

import sqlite3

HAS_OWNER = "CASE WHEN json_valid(body) THEN json_extract(body, '$.owner') <> '' END"
"""Whether a worker has a task; unknown where the state is damaged: it must not be in the other tasks' way."""
FINISHED_MS = "json_extract(body, '$.finished_ms')"
SURE = "status <> 'Queued' OR json_extract(body, '$.deadline_ms') - due_ms <= 900000"
"""What the sweep must look at on time. 900000 is the domain's `NEAR_MS`.

SQLite uses the index `sure` only for a query with these very words, so changing them needs a migration.
"""

_STATEMENTS = (
    """CREATE TABLE IF NOT EXISTS tasks (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, status TEXT NOT NULL, role TEXT NOT NULL,
    listing TEXT NOT NULL, due_ms INTEGER, body TEXT NOT NULL, PRIMARY KEY (tenant, task_id)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS listing ON tasks (tenant, listing)",
    "CREATE INDEX IF NOT EXISTS open ON tasks (due_ms) WHERE due_ms IS NOT NULL",
    f"CREATE INDEX IF NOT EXISTS sure ON tasks (due_ms) WHERE due_ms IS NOT NULL AND ({SURE})",
    f"CREATE INDEX IF NOT EXISTS finished ON tasks ({FINISHED_MS}) WHERE due_ms IS NULL",
    """CREATE TABLE IF NOT EXISTS requests (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (tenant, task_id))""",
    """CREATE TABLE IF NOT EXISTS outputs (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (tenant, task_id, key))""",
    """CREATE TABLE IF NOT EXISTS deleted (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (tenant, task_id))""",
    """CREATE TABLE IF NOT EXISTS counters (
    id INTEGER PRIMARY KEY CHECK (id = 1), total INTEGER NOT NULL DEFAULT 0, queued INTEGER NOT NULL DEFAULT 0,
    active INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0, failed_calls INTEGER NOT NULL DEFAULT 0,
    api_calls INTEGER NOT NULL DEFAULT 0, unpriced_calls INTEGER NOT NULL DEFAULT 0,
    tokens_in INTEGER NOT NULL DEFAULT 0, tokens_out INTEGER NOT NULL DEFAULT 0,
    duration_ms INTEGER NOT NULL DEFAULT 0, cost_microusd INTEGER NOT NULL DEFAULT 0)""",
    "INSERT OR IGNORE INTO counters (id) VALUES (1)",
    """CREATE TABLE IF NOT EXISTS spending (
    tenant TEXT NOT NULL, day TEXT NOT NULL, microusd INTEGER NOT NULL, PRIMARY KEY (tenant, day))""",
    """CREATE TABLE IF NOT EXISTS bindings (
    tenant TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (tenant, key))
    """,
    "CREATE INDEX IF NOT EXISTS bound_until ON bindings (until_ms)",
    "CREATE TABLE IF NOT EXISTS engines (name TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, ref TEXT NOT NULL, visible_ms INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS visible ON messages (visible_ms, id)",
    "CREATE TABLE IF NOT EXISTS keys (key_id TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS in_flight (key_id TEXT PRIMARY KEY, tasks INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS key_requests (
    key_id TEXT NOT NULL, minute INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY (key_id, minute))""",
    """CREATE TABLE IF NOT EXISTS key_spending (
    key_id TEXT NOT NULL, day TEXT NOT NULL, microusd INTEGER NOT NULL, PRIMARY KEY (key_id, day))""",
    """CREATE TABLE IF NOT EXISTS key_reservations (
    key_id TEXT NOT NULL, day TEXT NOT NULL, name TEXT NOT NULL, microusd INTEGER NOT NULL,
    PRIMARY KEY (key_id, day, name))""",
)


def create(db: sqlite3.Connection) -> None:
    """Make the tables and indexes that are not there yet."""
    for statement in _STATEMENTS:
        db.execute(statement)
