"""A file of an older version becomes one of today, with a backup, or stays as it was."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import fields

from llm_server.api import views
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.orchestration.domain.ports.listing import Page, TaskFilter
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import NEAR_MS, TaskRef
from llm_server.storage.sqlite import migrations
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database, migrate
from llm_server.storage.sqlite.migrations import MIGRATIONS, Migration, _compact, check
from llm_server.storage.sqlite.schema import SURE
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS
from support.database_files import GOLDEN, a_file_of_0_1_0, content, files, schema, version
from support.golden import as_of_then, in_todays_words

EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
TODAY = MIGRATIONS[-1].version
TASKS = in_todays_words(EXPECTED["tasks"])
LATER = ("bindings", "deleted", "switches", "keys", "in_flight", "key_requests", "key_spending", "key_reservations")
"""The tables that were added while the version stayed 1."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return a_file_of_0_1_0(tmp_path)


def a_migration(apply: Callable[[sqlite3.Connection], None], number: int = TODAY + 1) -> Migration:
    return Migration(version=number, purpose="test", apply=apply)


def broken(db: sqlite3.Connection) -> None:
    """Changes something, and fails then."""
    db.execute("DELETE FROM tasks")
    db.execute("CREATE TABLE extra (id INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO nowhere VALUES (1)")


def shown(store: SqliteStore) -> dict[str, Any]:
    """Every task of the file, as the API shows it."""
    tasks = {name: views.detail(store.get(TaskRef("acme", name))) for name in EXPECTED["tasks"]}
    return as_of_then({name: json.loads(view.model_dump_json()) for name, view in tasks.items()})


def due(store: SqliteStore) -> list[list[Any]]:
    return sorted([due.ref.task_id, due.due_ms] for due in store.due(NOW_MS + 2 * 86_400_000))


@pytest.mark.parametrize("lacking", [(), ("switches",), ("in_flight", "key_reservations"), LATER])
def test_a_file_of_0_1_0_is_migrated_when_it_is_opened(old: Path, lacking: tuple[str, ...]) -> None:
    """With the tables that were added while the version stayed 1, or without; it reads the same."""
    with closing(sqlite3.connect(old)) as db:
        for table in lacking:
            db.execute(f"DROP TABLE {table}")

    with closing(SqliteStore(Database(old))) as store:
        tasks, counted, page = shown(store), store.overview()[0], due(store)

    assert version(old) == TODAY == 5
    assert tasks == TASKS
    assert {f.name: getattr(counted, f.name) for f in fields(counted)} == EXPECTED["counters"]
    assert page == EXPECTED["due"]


@pytest.mark.parametrize(
    "index", ["listing", "by_facets", "deleted_until", "open", "sure", "finished", "bound_until", None]
)
def test_a_migrated_file_has_the_tables_and_indexes_of_a_new_one(old: Path, tmp_path: Path, index: str | None) -> None:
    """Whatever it lacked before."""
    with closing(sqlite3.connect(old)) as db:
        for name in (f"INDEX IF EXISTS {index}",) if index else (f"TABLE {table}" for table in LATER):
            db.execute(f"DROP {name}")
    SqliteStore(Database(old)).close()
    SqliteStore(Database(tmp_path / "new.db")).close()

    assert schema(old) == schema(tmp_path / "new.db")


def test_a_migration_lets_older_tasks_be_found_by_their_metadata(old: Path) -> None:
    """0.1.0 stored it in the request alone. A damaged record is left unchanged, and in no other task's way."""
    labels = {"project": "atlas", "note": 'a "quoted" ü, null'}
    with closing(sqlite3.connect(old)) as db:
        request = (
            "UPDATE requests SET body = json_set(body, '$.metadata', json(?)) WHERE task_id IN ('queued', 'failed')"
        )
        db.execute(request, (json.dumps(labels),))
        db.execute("UPDATE requests SET body = '{broken' WHERE task_id = 'planned'")
        db.execute("UPDATE tasks SET body = '{broken' WHERE task_id = 'processing'")
        db.commit()
        before = dict(db.execute("SELECT task_id, body FROM tasks").fetchall())

    with closing(SqliteStore(Database(old))) as store:
        found = store.page("acme", size=100, task_filter=TaskFilter(metadata=labels)).tasks
    with closing(sqlite3.connect(old)) as db:
        after = dict(db.execute("SELECT task_id, body FROM tasks").fetchall())

    assert {task.task_id: task.metadata for task in found} == {"queued": labels, "failed": labels}
    changed = {name for name in before if after[name] != before[name]}
    assert changed >= {"queued", "failed"}
    for name in changed:
        state = json.loads(after[name])
        assert state.pop("metadata")
        assert state == json.loads(before[name])
    assert not changed & {"planned", "processing"}


def test_a_migration_lets_older_tasks_be_found_by_each_filter(old: Path) -> None:
    """A filter finds what it finds among the same tasks in a new file. The facets of a damaged state stay NULL."""
    with closing(sqlite3.connect(old)) as db:
        db.execute("UPDATE tasks SET body = '{broken' WHERE task_id = 'processing'")
        db.commit()
    with closing(SqliteStore(Database(old))) as store:
        tasks = store.page("acme", size=100).tasks
        for wanted in (
            *(TaskFilter(statuses=frozenset({status})) for status in Status),
            *(TaskFilter(mode=mode) for mode in Mode),
            *(TaskFilter(role=role) for role in {task.role for task in tasks}),
            *(TaskFilter(engine=engine) for engine in {task.engine for task in tasks}),
            *(TaskFilter(awaiting_approval=awaits) for awaits in (True, False)),
        ):
            found = store.page("acme", size=100, task_filter=wanted)
            assert found == Page([task for task in tasks if wanted.matches(task)], ""), wanted
    with closing(sqlite3.connect(old)) as db:
        damaged = db.execute("SELECT task_id FROM tasks WHERE facets IS NULL").fetchall()

    assert damaged == [("processing",)]
    assert len(tasks) > 10


def test_a_new_file_and_a_migrated_one_can_become_smaller(old: Path, tmp_path: Path) -> None:
    """SQLite then returns free pages in small steps."""
    new = tmp_path / "new.db"
    for path in (old, new):
        SqliteStore(Database(path)).close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_file_whose_compacting_was_killed_is_compacted_at_the_next_start(old: Path) -> None:
    with patch.object(migrations, "_compact"):
        Database(old).close()

    SqliteStore(Database(old)).close()

    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_file_that_cannot_be_written_anew_stays_usable(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It keeps its free pages. SQLite refuses here because a transaction is open."""
    before = content(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.execute("BEGIN")
        _compact(db)

    assert [record.message for record in caplog.records] == ["database not compacted"]
    assert content(old) == before


def test_a_new_file_gets_today_s_version_and_no_backup(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tasks.db"

    SqliteStore(Database(path)).close()

    assert version(path) == TODAY
    assert sorted(file.name for file in path.parent.iterdir()) == ["tasks.db", "tasks.db.marker"]


def test_the_tables_count_what_the_domain_counts(tmp_path: Path) -> None:
    """A figure more, or another `NEAR_MS`, needs a migration: files that exist do not change by themselves."""
    SqliteStore(Database(tmp_path / "tasks.db")).close()
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(counters)")]

    assert columns == ["id", *(f.name for f in fields(Counters))]
    assert str(NEAR_MS) in SURE


def test_a_file_of_today_is_opened_without_a_write(tmp_path: Path) -> None:
    """No table is made, not even one that is missing: that would be work at each start."""
    path = tmp_path / "data" / "tasks.db"
    SqliteStore(Database(path)).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP INDEX bound_until")
    before = files(path)

    for opened in (SqliteStore(Database(path)), SqliteKeys(Database(path))):
        opened.close()

    assert files(path) == before
    assert not path.with_name("tasks.db.lock").exists()


def test_the_backup_is_the_file_from_before_and_private(old: Path) -> None:
    before = content(old)

    SqliteStore(Database(old)).close()

    backup = old.with_name("tasks.db.v1.backup")
    assert content(backup) == before
    assert version(backup) == 1
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(files(old)) == ["tasks.db", "tasks.db.marker", "tasks.db.v1.backup"]


def test_what_is_only_in_the_log_is_in_the_backup_too(old: Path, tmp_path: Path) -> None:
    """A server that was killed leaves its last writes there."""
    with closing(sqlite3.connect(old)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("INSERT INTO engines VALUES ('newest', '{}')")
        db.commit()
        killed = tmp_path / "killed" / old.name
        shutil.copytree(old.parent, killed.parent, ignore=shutil.ignore_patterns("*-shm"))
    assert b"newest" not in killed.read_bytes()

    SqliteKeys(Database(killed)).close()

    assert "INSERT INTO \"engines\" VALUES('newest','{}');" in content(killed.with_name("tasks.db.v1.backup"))


def test_a_backup_in_place_of_the_file_is_a_whole_file_of_its_version(old: Path) -> None:
    SqliteStore(Database(old)).close()
    old.with_name("tasks.db.v1.backup").replace(old)

    with closing(SqliteStore(Database(old))) as store:
        assert shown(store) == TASKS


def test_an_older_backup_is_kept(old: Path) -> None:
    first = old.with_name("tasks.db.v1.backup")
    first.write_text("older")
    before = content(old)

    with closing(sqlite3.connect(old)):
        migrated = migrate(old)

    assert first.read_text() == "older"
    assert migrated is not None
    assert migrated.backup == old.with_name("tasks.db.v1.backup.2")
    assert content(migrated.backup) == before


def test_a_backup_that_broke_off_is_written_anew(old: Path) -> None:
    """The process was killed in the middle of it."""
    old.with_name("tasks.db.v1.backup.part").write_bytes(b"SQLite format 3\0 and no more")
    before = content(old)

    SqliteStore(Database(old)).close()

    assert sorted(files(old)) == ["tasks.db", "tasks.db.marker", "tasks.db.v1.backup"]
    assert content(old.with_name("tasks.db.v1.backup")) == before


def test_opening_says_that_it_migrated_and_where_the_backup_is(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "llm_server"):
        for opened in (SqliteKeys(Database(old)), SqliteStore(Database(old))):
            opened.close()

    (record,) = caplog.records
    logged = {name: getattr(record, name) for name in ("message", "database", "from_version", "to_version", "backup")}
    assert logged == {
        "message": "database migrated",
        "database": old,
        "from_version": 1,
        "to_version": TODAY,
        "backup": old.with_name("tasks.db.v1.backup"),
    }


@pytest.mark.parametrize("before", [(), MIGRATIONS])
def test_a_migration_that_fails_leaves_the_file_as_it_was(old: Path, before: tuple[Migration, ...]) -> None:
    """Those before it are undone too: neither the old server nor this one could use a file of a version in between."""
    untouched = files(old)

    with pytest.raises(ConfigurationError) as refused:
        Database(old, migrations=[*before, a_migration(broken)])

    said = (
        f"The database {old} cannot be migrated and was not changed: "
        f"migration {TODAY + 1} failed: no such table: nowhere."
    )
    assert str(refused.value) == said
    assert files(old) == untouched
    SqliteStore(Database(old)).close()
    assert version(old) == TODAY


def test_a_migration_that_fails_by_a_bug_leaves_the_file_as_it_was(old: Path) -> None:
    """Whatever it raises, the operator reads one sentence."""
    untouched = files(old)

    def buggy(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM tasks")
        raise KeyError("listing")

    with pytest.raises(ConfigurationError, match=f"migration {TODAY + 1} failed: 'listing'"):
        Database(old, migrations=[a_migration(buggy)])

    assert files(old) == untouched


def test_migrations_are_applied_in_order_and_only_those_that_are_pending(old: Path) -> None:
    applied: list[int] = []
    later = [a_migration(lambda db, n=number: applied.append(n), number) for number in (TODAY + 1, TODAY + 2)]  # type: ignore[misc]
    Database(old, migrations=[*MIGRATIONS, later[0]]).close()
    Database(old, migrations=[*MIGRATIONS, *later]).close()
    Database(old, migrations=[*MIGRATIONS, *later]).close()

    assert applied == [TODAY + 1, TODAY + 2]
    assert version(old) == TODAY + 2
    assert sorted(files(old)) == ["tasks.db", "tasks.db.marker", "tasks.db.v1.backup", f"tasks.db.v{TODAY + 1}.backup"]


def test_a_power_cut_between_backup_and_commit_is_harmless(old: Path, tmp_path: Path) -> None:
    """What the disk has then is the file as it was and a whole backup; the next start migrates."""
    before = content(old)
    cut = tmp_path / "cut" / old.name

    def cut_off(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM tasks")
        shutil.copytree(old.parent, cut.parent, ignore=shutil.ignore_patterns("*-shm", "*.lock"))

    Database(old, migrations=[a_migration(cut_off)]).close()

    assert content(cut.with_name("tasks.db.v1.backup")) == before
    with closing(SqliteStore(Database(cut))) as store:
        assert shown(store) == TASKS
    assert content(cut.with_name("tasks.db.v1.backup")) == before
    assert version(cut) == TODAY


def test_a_folder_that_takes_no_backup_leaves_the_file_as_it_was(old: Path) -> None:
    old.with_name("tasks.db.v1.backup.part").mkdir()
    before = content(old)

    with pytest.raises(ConfigurationError, match="was not changed: the backup cannot be written"):
        SqliteStore(Database(old))

    assert (content(old), version(old)) == (before, 1)


def test_a_file_of_a_newer_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    Database(path, migrations=[*MIGRATIONS, a_migration(lambda db: None, 7)]).close()
    untouched = path.read_bytes()

    with pytest.raises(ConfigurationError) as refused:
        SqliteStore(Database(path))

    assert str(refused.value) == (
        f"The database {path} cannot be opened: it has version 7, and this LLM-Server knows {TODAY} at most. "
        "Use the newer LLM-Server, or the backup from before the migration (tasks.db.v<version>.backup)."
    )
    assert path.read_bytes() == untouched


@pytest.mark.parametrize("number", [0, 1, 2, -1])
def test_a_file_of_another_program_is_refused_and_not_written_to(tmp_path: Path, number: int) -> None:
    """Whatever version that program gave it."""
    path = tmp_path / "theirs" / "notes.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE notes (id, text)")
        theirs.execute(f"PRAGMA user_version = {number}")
        theirs.commit()
    untouched = files(path)

    for opened in (Database, migrate, check):
        with pytest.raises(ConfigurationError, match="not made by this version of LLM-Server"):
            opened(path)

    assert files(path) == untouched


def test_a_check_reads_the_version_and_changes_nothing(old: Path) -> None:
    untouched = files(old)

    assert check(old) == (1, [*MIGRATIONS])
    assert files(old) == untouched
    SqliteStore(Database(old)).close()
    assert check(old) == (TODAY, [])


def test_a_check_leaves_the_log_of_a_killed_server_alone(old: Path, tmp_path: Path) -> None:
    """It counts, and stays: the next start reads it."""
    with closing(sqlite3.connect(old)) as db:
        db.execute(f"PRAGMA user_version = {TODAY}")
        killed = tmp_path / "killed" / old.name
        shutil.copytree(old.parent, killed.parent, ignore=shutil.ignore_patterns("*-shm"))
    untouched = files(killed)

    assert check(killed)[0] == TODAY
    assert {name: text for name, text in files(killed).items() if not name.endswith("-shm")} == untouched
