"""The tables and indexes of version 2, the changes of later versions, and expressions that indexes and queries share.

New files get the later changes by migrations too (migrations.py).
"""

from __future__ import annotations

import sqlite3

from llm_server.storage import records
from llm_server.storage.sqlite import task_rows

HAS_OWNER = "CASE WHEN json_valid(body) THEN json_extract(body, '$.owner') <> '' END"
"""Whether a worker has a task. NULL if the state is not valid JSON, so that a damaged state raises no error."""
FINISHED_MS = "json_extract(body, '$.finished_ms')"
SURE = "status <> 'Queued' OR json_extract(body, '$.deadline_ms') - due_ms <= 900000"
"""The tasks that the sweep must look at on time. 900000 is `NEAR_MS` of the domain.

SQLite uses the index `sure` only for queries with exactly this expression, so changing it needs a migration.
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
    """Create the tables and indexes that do not exist yet."""
    for statement in _STATEMENTS:
        db.execute(statement)


def index_by_status(db: sqlite3.Connection) -> None:
    """Index the tasks by status, and copy metadata from the requests into the states, where a listing reads it.

    A damaged record is left unchanged.
    """
    db.execute("CREATE INDEX IF NOT EXISTS by_status ON tasks (tenant, status, listing)")
    metadata = "CASE WHEN json_valid(body) THEN json_extract(body, '$.metadata') END"
    db.execute(
        f"""UPDATE tasks SET body = json_set(body, '$.metadata', json(labels.metadata))
        FROM (SELECT tenant, task_id, {metadata} AS metadata FROM requests WHERE {metadata} <> '{{}}') AS labels
        WHERE tasks.tenant = labels.tenant AND tasks.task_id = labels.task_id AND json_valid(tasks.body)"""
    )


def add_deltas_and_conversations(db: sqlite3.Connection) -> None:
    """Add the table for the text of streamed tasks, and that of conversations."""
    db.execute(
        """CREATE TABLE IF NOT EXISTS deltas (
        tenant TEXT NOT NULL, task_id TEXT NOT NULL, last INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (tenant, task_id, last))"""
    )
    db.execute(
        """CREATE TABLE IF NOT EXISTS conversations (
        tenant TEXT NOT NULL, conversation_id TEXT NOT NULL, rev INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
        body TEXT NOT NULL, PRIMARY KEY (tenant, conversation_id))"""
    )
    db.execute("CREATE INDEX IF NOT EXISTS conversations_updated ON conversations (updated_ms)")


_NEXT_STATES = """SELECT tenant, task_id, body FROM tasks WHERE (tenant, task_id) > (?, ?)
    ORDER BY tenant, task_id LIMIT 10000"""


def index_by_facets(db: sqlite3.Connection) -> None:
    """Index the tasks by their facets and their metadata, and deleted names by the end of their time.

    Drop the messages of 0.1.0: the queue is in memory now, and is made anew from the tasks.
    The facets of a task whose state cannot be read stay NULL: no filter finds it.
    """
    if not db.execute("SELECT 1 FROM pragma_table_info('tasks') WHERE name = 'facets'").fetchone():
        db.execute("ALTER TABLE tasks ADD COLUMN facets TEXT")
    db.execute(
        """CREATE TABLE IF NOT EXISTS labels (
        tenant TEXT NOT NULL, label INTEGER NOT NULL, facets TEXT NOT NULL, listing TEXT NOT NULL,
        PRIMARY KEY (tenant, label, facets, listing)) WITHOUT ROWID"""
    )
    db.execute("DROP INDEX IF EXISTS by_status")
    db.execute("DROP TABLE IF EXISTS messages")
    db.execute("DELETE FROM labels")
    last = ("", "")
    while states := db.execute(_NEXT_STATES, last).fetchall():
        tasks = [task for *_, body in states if (task := records.readable_task(body))]
        facets = [(task_rows.facets(task), task.tenant, task.task_id) for task in tasks]
        db.executemany("UPDATE tasks SET facets = ? WHERE (tenant, task_id) = (?, ?)", facets)
        labels = sorted(row for task in tasks for row in task_rows.label_rows(task))  # faster to insert in order
        db.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?)", labels)
        last = states[-1][:2]
    db.execute("CREATE INDEX IF NOT EXISTS by_facets ON tasks (tenant, facets, listing)")
    db.execute("CREATE INDEX IF NOT EXISTS deleted_until ON deleted (until_ms)")
