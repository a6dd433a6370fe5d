"""The embedded server's start on a database file that it cannot use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llm_server.embedded.assembly import embedded_service
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task, claimed

PAGE_BYTES = 4096


def started(path: Path) -> None:
    with embedded_service(Settings(db=path), own_port=0):
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which a worker was at a task when the server was killed."""
    path, task = tmp_path / "tasks.db", a_task()
    with closing(SqliteStore(Database(path))) as store:
        store.add(task, a_request())
        store.save(task, claimed(task))
    return path


def test_a_start_says_that_another_process_holds_the_lock(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(ConfigurationError, match=r"tasks\.db\. Another process holds the lock of the database"):
            started(path)

        other.execute("ROLLBACK")
    started(path)


def test_a_start_that_needs_a_damaged_page_says_so(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)

    with pytest.raises(ConfigurationError, match=r"tasks\.db is damaged: .* restore a backup.* \.recover"):
        started(path)
