"""One SQLite file (WAL): its tables and connections to it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.task import NEAR_MS
from llm_server.storage.sqlite.process_lock import cannot_be_opened
from llm_server.storage.sqlite.write_turns import turns_of

FINISHED_MS = "json_extract(body, '$.finished_ms')"
SURE = f"status <> 'Queued' OR json_extract(body, '$.deadline_ms') - due_ms <= {NEAR_MS}"
"""What must be looked at on time. An index of the files of today stands on these very words."""
COUNTERS = [f.name for f in fields(Counters)]
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, status TEXT NOT NULL, role TEXT NOT NULL,
    listing TEXT NOT NULL, due_ms INTEGER, body TEXT NOT NULL, PRIMARY KEY (tenant, task_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS listing ON tasks (tenant, listing);
CREATE INDEX IF NOT EXISTS open ON tasks (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS sure ON tasks (due_ms) WHERE due_ms IS NOT NULL AND ({SURE});
CREATE TABLE IF NOT EXISTS requests (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (tenant, task_id));
CREATE TABLE IF NOT EXISTS outputs (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (tenant, task_id, key));
CREATE TABLE IF NOT EXISTS counters (
    id INTEGER PRIMARY KEY CHECK (id = 1), {", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in COUNTERS)});
INSERT OR IGNORE INTO counters (id) VALUES (1);
CREATE TABLE IF NOT EXISTS spending (
    tenant TEXT NOT NULL, day TEXT NOT NULL, microusd INTEGER NOT NULL, PRIMARY KEY (tenant, day));
CREATE TABLE IF NOT EXISTS bindings (
    tenant TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (tenant, key));
CREATE INDEX IF NOT EXISTS finished ON tasks ({FINISHED_MS}) WHERE due_ms IS NULL;
CREATE TABLE IF NOT EXISTS deleted (
    tenant TEXT NOT NULL, task_id TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (tenant, task_id));
CREATE INDEX IF NOT EXISTS bound_until ON bindings (until_ms);
CREATE TABLE IF NOT EXISTS engines (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, ref TEXT NOT NULL, visible_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS visible ON messages (visible_ms, id);
CREATE TABLE IF NOT EXISTS keys (key_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS in_flight (key_id TEXT PRIMARY KEY, tasks INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS key_requests (
    key_id TEXT NOT NULL, minute INTEGER NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY (key_id, minute));
CREATE TABLE IF NOT EXISTS key_spending (
    key_id TEXT NOT NULL, day TEXT NOT NULL, microusd INTEGER NOT NULL, PRIMARY KEY (key_id, day));
CREATE TABLE IF NOT EXISTS key_reservations (
    key_id TEXT NOT NULL, day TEXT NOT NULL, name TEXT NOT NULL, microusd INTEGER NOT NULL,
    PRIMARY KEY (key_id, day, name));
"""
VERSION = 1
"""Of the tables above, kept in the file as `user_version`; a table more does not change it: a file is given it here."""
BUSY_S = 1.0
"""Only somebody outside this process can make us wait, and the HTTP loop waits with us."""


class Database:
    """One connection behind a lock; it writes when it is its turn. Every error is StorageUnavailable."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._lock = threading.Lock()
        try:
            file = _made_private(path)
            self._turn = partial(turns_of(file).turn, brief=not durable)
            self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        except (sqlite3.Error, OSError) as error:
            raise cannot_be_opened(path, error) from error
        try:
            with self._turn():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                if durable:  # on macOS an fsync stops at the disk's cache; elsewhere this says nothing
                    self._connection.execute("PRAGMA fullfsync = ON")
                self._check_ours(path)
                self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        except sqlite3.Error as error:
            self._connection.close()
            raise cannot_be_opened(path, error) from error

    def _check_ours(self, path: Path) -> None:
        """Refuse a file that holds somebody else's tables, or those of another version."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version != VERSION and (version, tables) != (0, 0):
            self._connection.close()
            raise cannot_be_opened(path, "it was not made by this version of LLM-Server")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self._turn(), self._reachable() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one moment."""
        with self._reachable() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reachable(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StorageUnavailable("The database does not answer; try again.") from error


def _made_private(path: Path) -> Path:
    """Make a new file readable by its owner alone: it holds prompts and answers. SQLite's side files follow it."""
    file = path.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    return file
