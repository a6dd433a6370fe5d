"""Fill a database with 100,000 tasks: copies of a few that a server has carried out, so they have its own form."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.engine_process import engine_process
from benchmarks.peers.sides import llm_server
from support.server_process import RunningServer

TOTAL = 100_000
SPACING_MS = 800
"""Between the creations of two tasks; all of them lie within a day, so retention removes none."""
RARE = 20
"""How many tasks are awaiting approval, are Cancelled, or have the rare customer; they are the oldest."""
COMMON: list[dict[str, Any]] = [
    {"mode": mode, "role": role, "metadata": {"customer": f"c{number}"}}
    for number, (mode, role) in enumerate(
        [("Agent", "Writing-Agent"), ("Chat", "Chat-Agent"), ("Agent", "Deep-Coder-Agent"), ("Agent", "QA-Agent")]
    )
]
AWAITING_PLAN: dict[str, Any] = {"mode": "Plan", "profile": "General", "plan_approval": True}


@dataclass(frozen=True, slots=True)
class Model:
    """A task that is copied: its id, its time of creation and its rows of each table."""

    task_id: str
    created_ms: int
    rows: dict[str, list[tuple[Any, ...]]]


def fill(db: Path) -> int:
    """Write the tasks; return the time of creation of the newest in Unix milliseconds."""
    url, stop = engine_process(0.0)
    try:
        with llm_server(url, max_concurrency=64, db=db) as (server, _):
            common = [server.submit("Write a haiku.", wait_s=20, **fields)["task_id"] for fields in COMMON]
            rare = [_awaiting(server), _cancelled(server), _of_rare_customer(server)]
            server.stop()
    finally:
        stop()
    with sqlite3.connect(db) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # nothing is lost if the machine fails: it is a copy
        return _copy(connection, common, rare)


def _awaiting(server: RunningServer) -> str:
    task_id: str = server.submit("Write a book.", **AWAITING_PLAN)["task_id"]
    end = time.monotonic() + 20
    while server.call("GET", f"/tasks/{task_id}").json()["status"] != "Planned":
        assert time.monotonic() < end, "the plan did not come"
        time.sleep(0.02)
    return task_id


def _cancelled(server: RunningServer) -> str:
    task_id = _awaiting(server)
    assert server.call("POST", f"/tasks/{task_id}/cancel").json()["status"] == "Cancelled"
    return task_id


def _of_rare_customer(server: RunningServer) -> str:
    fields = COMMON[0] | {"metadata": {"customer": "rare"}}
    return str(server.submit("Write a haiku.", wait_s=20, **fields)["task_id"])


def _copy(connection: sqlite3.Connection, common: Sequence[str], rare: Sequence[str]) -> int:
    tables = _tables(connection)
    of = {task_id: _model(connection, tables, task_id) for task_id in (*common, *rare)}
    newest_ms = max(model.created_ms for model in of.values()) - SPACING_MS
    ids = [common[n % len(common)] for n in range(TOTAL - RARE * len(rare))]
    ids += [task_id for task_id in rare for _ in range(RARE)]
    copies = [(of[task_id], newest_ms - n * SPACING_MS) for n, task_id in enumerate(ids)]
    new_ids = [_uuid7(created_ms) for _, created_ms in copies]
    for table, columns in tables.items():
        marks = ", ".join("?" for _ in columns)
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        rows = (row for copy, new_id in zip(copies, new_ids, strict=True) for row in _rows(table, *copy, new_id))
        connection.executemany(statement, rows)
        connection.executemany(f"DELETE FROM {table} WHERE task_id = ?", [(task_id,) for task_id in of])
    return newest_ms


def _tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the columns of each table that has rows for a task, except generated columns."""
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    columns = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    return {name: found for name, found in columns.items() if "task_id" in found}


def _model(connection: sqlite3.Connection, tables: dict[str, list[str]], task_id: str) -> Model:
    rows = {
        table: connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE task_id = ?", (task_id,)).fetchall()
        for table, columns in tables.items()
    }
    body = "SELECT json_extract(body, '$.created_ms') FROM tasks WHERE task_id = ?"
    (created_ms,) = connection.execute(body, (task_id,)).fetchone()
    return Model(task_id, created_ms, rows)


def _rows(table: str, model: Model, created_ms: int, new_id: str) -> Iterator[tuple[Any, ...]]:
    """Yield a model's rows with another id and another time of creation, wherever they occur."""

    def changed(value: object) -> object:
        if isinstance(value, str):
            return value.replace(model.task_id, new_id).replace(str(model.created_ms), str(created_ms))
        return created_ms if value == model.created_ms else value

    for row in model.rows[table]:
        yield tuple(map(changed, row))


def _uuid7(created_ms: int) -> str:
    """Return an id as the server makes them: the first 48 bits are the time (RFC 9562)."""
    digits = f"{created_ms:012x}7{uuid4().hex[13:]}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
