"""A database file that is damaged or lost under a running server: told once, and no acknowledged write is lost."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_server.orchestration.domain.errors import (
    StorageDamaged,
    StorageMissing,
    StorageUnavailable,
)
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.connections.failures import Failures
from llm_server.storage.sqlite.connections.readers import Readers
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task

PAGE_BYTES = 4096


def a_used_file(path: Path, *, tasks: int = 1) -> list[TaskRef]:
    """Make a database with tasks at a path."""
    refs = list[TaskRef]()
    with closing(SqliteStore(Database(path))) as store:
        for _ in range(tasks):
            task = a_task()
            store.add(task, a_request("Why is the sky blue? " * 200))
            refs.append(task.ref)
    return refs


def damage(path: Path) -> None:
    """Overwrite the pages of the prompts, in the middle of the file."""
    with closing(sqlite3.connect(path)) as db:
        pages = db.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'requests'").fetchall()
    with path.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(b"\xa5" * PAGE_BYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which a server has stored a task."""
    path = tmp_path / "data" / "tasks.db"
    a_used_file(path)
    return path


def test_a_damaged_page_is_named_as_damage_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is not on the page can still be read."""
    path = tmp_path / "tasks.db"
    refs = a_used_file(path, tasks=20)
    damage(path)

    with closing(Database(path)) as database:
        store = SqliteStore(database)
        database.check()
        errors = []
        for ref in refs * 2:
            with pytest.raises(StorageDamaged) as refused:
                store.get(ref)
            errors.append(refused.value)
        with pytest.raises(StorageDamaged):
            store.add(a_task(), a_request())
        assert store.peek(refs[0]).ref == refs[0]
        with pytest.raises(StorageDamaged):
            database.check()

    assert "try again" not in str(errors[0])
    assert "tasks.db is damaged" in str(errors[0])
    assert str(path) in errors[0].cause
    assert ".recover" in errors[0].cause
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == ["database damaged"]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    a_used_file(other)
    other.replace(path)


def without_log(path: Path) -> None:
    path.with_name("tasks.db-wal").unlink()


@pytest.mark.parametrize(
    ("lose", "said"),
    [(removed, "removed"), (replaced, "replaced"), (emptied, "emptied"), (without_log, "lost its log")],
)
def test_a_write_is_refused_once_the_file_is_gone(
    path: Path, lose: Callable[[Path], None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or it would be acknowledged and lost. No new file is made, and the log says it once."""
    database = Database(path)
    store = SqliteStore(database)
    database.check()
    lose(path)
    left = {file.name for file in path.parent.iterdir()}

    for _ in range(3):
        with pytest.raises(StorageMissing, match=rf"tasks\.db.*{said}.*put the file back"):
            store.add(a_task(), a_request())
    with pytest.raises(StorageMissing):
        database.check()
    database.close()

    assert {file.name for file in path.parent.iterdir()} <= left
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == ["database file missing"]


def test_a_write_whose_file_is_removed_before_its_commit_is_refused(path: Path) -> None:
    with closing(Database(path)) as database, pytest.raises(StorageMissing):
        database.write(lambda db: path.unlink())


def test_a_new_reader_never_reads_another_file(path: Path) -> None:
    """Connections are opened when they are needed."""
    with closing(Database(path)) as database:
        replaced(path)

        with pytest.raises(StorageMissing), database.reading():
            pass


def test_the_lock_of_another_process_is_named(path: Path) -> None:
    with closing(SqliteStore(Database(path))) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageUnavailable, match="Another process holds the lock of the database; try again"):
            store.add(a_task(), a_request())


class Unsteady(sqlite3.Connection):
    """A connection whose statements fail if they are in `failing`."""

    failing = frozenset[str]()
    is_closed = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql in self.failing:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)

    def close(self) -> None:
        self.is_closed = True
        super().close()


@pytest.mark.parametrize("failing", ["BEGIN", "ROLLBACK"])
def test_a_read_that_fails_leaves_no_connection_open(path: Path, failing: str) -> None:
    """The connection is kept for the next read, or closed if its transaction cannot be ended."""
    made = list[Unsteady]()

    def connect() -> sqlite3.Connection:
        made.append(sqlite3.connect(path, isolation_level=None, factory=Unsteady))
        return made[-1]

    Database(path).close()
    with closing(Readers(connect, Failures(path))) as readers:
        with readers.reading():
            pass
        made[0].failing = frozenset({failing})
        with pytest.raises(StorageUnavailable), readers.reading() as db:
            db.execute("SELECT count(*) FROM tasks")
        made[0].failing = frozenset()
        with readers.reading() as db:
            assert db.execute("SELECT count(*) FROM tasks").fetchone() == (1,)

    assert [connection.is_closed for connection in made] == [True] * (1 if failing == "BEGIN" else 2)


def test_no_command_runs_once_the_file_is_gone(path: Path) -> None:
    """So no worker goes on with a claim that is not stored."""
    ran = list[int]()
    with closing(Database(path)) as database:
        path.unlink()
        with pytest.raises(StorageMissing):
            database.write(lambda db: ran.append(1))

    assert ran == []
