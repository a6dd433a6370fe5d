"""`llm-server tenants delete`: what it says, its exit codes, and what it leaves in the SQLite file."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_server.cli.app import app
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_key, a_request, a_task
from support.database_files import a_file_of_0_1_0, content, files, version

FAR_MS = 10**14


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A database with two tasks of `acme`, one of which a worker has, and with keys of two tenants."""
    path = tmp_path / "data" / "tasks.db"
    with closing(Database(path)) as database:
        store, keys = SqliteStore(database), SqliteKeys(database)
        for tenant in ("acme", "other"):
            keys.add_key(a_key(tenant=tenant))
        store.add(a_task(tenant="acme"), a_request("Why? " * 10_000))
        busy = a_task(tenant="acme")
        store.add(busy, a_request())
        store.save(busy, busy.claimed(owner="w", now_ms=FAR_MS, lease_ms=FAR_MS, has_plan=False))
    return path


@contextmanager
def held_by_a_server(db: Path) -> Iterator[None]:
    """Hold the lock of a file as another process does."""
    with open(f"{db}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def run(db: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["tenants", "delete", *arguments, "--db", str(db)], env={"LLM_SERVER_TABLE": ""})


def test_without_yes_nothing_is_deleted(db: Path) -> None:
    before = files(db)

    refused = run(db, "acme")

    said = "This deletes everything of tenant acme, for ever. To do it, add --yes.\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (2, "", said)
    assert files(db) == before


def test_everything_is_deleted_if_no_server_is_running(db: Path) -> None:
    """A claim of a server that is gone does not delay it. Another server can start afterwards."""
    deleted = run(db, "acme", "--yes")

    said = "Deleted for tenant acme: 2 tasks, 0 conversations, 0 Idempotency-Keys, 0 daily totals, 1 API key.\n"
    stays = (
        "These stay: the ids of its tasks, with its name, for 2 days; the totals of all tenants.\n"
        "Not deleted: your backups, and copies beside the file (tasks.db.v*.backup).\n"
    )
    assert (deleted.exit_code, deleted.stdout, deleted.stderr) == (0, said, stays)
    assert [line for line in content(db) if "acme" in line and '"deleted"' not in line] == []
    with closing(sqlite3.connect(db)) as opened:
        assert opened.execute("PRAGMA freelist_count").fetchone() == (0,)
    OnlyProcess(db).close()


def test_a_file_of_an_older_version_is_migrated_first(tmp_path: Path) -> None:
    """The command holds the file's lock, and so may migrate it."""
    old = a_file_of_0_1_0(tmp_path)

    deleted = run(old, "unknown", "--yes")

    assert (deleted.exit_code, version(old)) == (0, 5)


def test_a_name_that_is_unknown_is_doubted(db: Path) -> None:
    """A mistyped name must not look like a deletion."""
    found = run(db, "acne", "--yes")

    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout == "The database has nothing of tenant acne. Is the name right?\n"


def test_what_a_running_server_has_is_left_for_another_call(db: Path) -> None:
    """Its worker has a task until the lease ends, and it may know a key for a minute."""
    with held_by_a_server(db):
        busy, known = run(db, "acme", "--yes", "--timeout", "0"), run(db, "other", "--yes", "--timeout", "0")

    said = (
        "Servers may be running: the command waits up to a minute until they refuse the keys.\n"
        "Not all of {} is deleted: {}. Its keys are revoked. Give the command again.\n"
    )
    assert (busy.exit_code, busy.stdout) == (
        4,
        "Deleted for tenant acme: 1 task, 0 conversations, 0 Idempotency-Keys, 0 daily totals, 0 API keys.\n",
    )
    assert busy.stderr == said.format("acme", "workers have 1 task")
    assert (known.exit_code, known.stderr) == (4, said.format("other", "servers may accept its keys for a minute"))


def test_a_running_server_is_named_as_the_reason_why_bytes_may_be_left(db: Path) -> None:
    with closing(SqliteStore(Database(db))) as store:
        store.add(a_task(tenant="local"), a_request())
    with held_by_a_server(db):
        deleted = run(db, "local", "--yes")

    assert (deleted.exit_code, deleted.stderr.splitlines()[-1]) == (
        0,
        "Unused bytes of the file may hold parts of texts while a server is running. To write it anew, stop the server "
        "and give the command again.",
    )


def test_what_cannot_be_deleted_is_refused_with_the_reason(db: Path, tmp_path: Path) -> None:
    run(db, "other", "--yes")

    only = run(db, "acme", "--yes")
    wrong = run(db, "Acme", "--yes")
    missing = run(tmp_path / "missing.db", "acme", "--yes")

    assert [(each.exit_code, each.stdout) for each in (only, wrong, missing)] == [(2, "")] * 3
    assert only.stderr == (
        "The keys of acme are the only ones. Without any key, an embedded server answers every program on its machine. "
        "Make a key for another tenant first: llm-server keys create --tenant OTHER --scope admin\n"
    )
    assert wrong.stderr == "A tenant's name must have 1 to 40 characters of a to z, 0 to 9 and -.\n"
    assert missing.stderr.startswith(f"The database {tmp_path / 'missing.db'} does not exist; ")
    assert not (tmp_path / "missing.db").exists()
