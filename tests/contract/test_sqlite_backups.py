"""A backup has all that was acknowledged, is complete or absent, and only a good one is restored."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import ConfigurationError, TaskNotFound
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file import backups
from llm_server.storage.sqlite.file.backups import Backup
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.migrations import MIGRATIONS, Migration
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.database_files import a_file_of_0_1_0, content, files, version

PROMPT = "Why is the sky blue? " * 20


def tasks_in(path: Path, number: int) -> list[TaskRef]:
    """Store tasks in a database; the first is Completed."""
    refs = list[TaskRef]()
    with closing(SqliteStore(Database(path))) as store:
        new = [a_task(metadata={"team": "blue"}) for _ in range(number)]
        store.atomically(lambda: [store.add(task, a_request(PROMPT)) for task in new])
        refs += [task.ref for task in new]
        first = store.get(refs[0]).task
        store.save(first, claimed(first))
        answer = an_output()
        store.save(claimed(first), claimed(first).completed(answer), answer)
    return refs


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A database with 30 tasks, which no server uses."""
    path = tmp_path / "data" / "tasks.db"
    tasks_in(path, 30)
    return path


@pytest.fixture
def backup(db: Path, tmp_path: Path) -> Path:
    file = tmp_path / "backup.db"
    backups.back_up(db, file, now_ms=NOW_MS)
    return file


def test_a_restored_backup_has_all_rows_and_works_as_a_database(db: Path, tmp_path: Path) -> None:
    """Also the empty tables, the version, and the setting that lets the file become smaller."""
    file, restored = tmp_path / "backup.db", tmp_path / "new" / "tasks.db"
    before = content(db)

    made = backups.back_up(db, file, now_ms=NOW_MS)
    found = backups.restore(file, restored)

    assert made == found == Backup(version=5, tasks=30, open_tasks=29, made_ms=NOW_MS)
    assert [line for line in content(restored) if "backup" not in line] == before
    assert content(db) == before
    with closing(SqliteStore(Database(restored))) as store:
        assert store.add(a_task(), a_request())
        assert store.overview()[0].total == 31
    with closing(sqlite3.connect(restored)) as opened:
        assert opened.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_backup_and_what_is_restored_are_private(backup: Path, tmp_path: Path) -> None:
    restored = tmp_path / "new" / "tasks.db"

    backups.restore(backup, restored)

    assert stat.S_IMODE(backup.stat().st_mode) == stat.S_IMODE(restored.stat().st_mode) == 0o600
    assert sorted(files(restored)) == ["tasks.db", "tasks.db.marker"]


def test_a_backup_has_what_is_only_in_the_log(tmp_path: Path) -> None:
    """A plain copy of the file without its log has nothing of it."""
    path, file = tmp_path / "tasks.db", tmp_path / "backup.db"
    with closing(SqliteStore(Database(path))) as store:
        store.add(a_task(), a_request())
        copied = path.read_bytes()
        made = backups.back_up(path, file, now_ms=NOW_MS)

    (tmp_path / "copy.db").write_bytes(copied)
    assert made.tasks == 1
    assert 'INSERT INTO "tasks"' not in "".join(content(tmp_path / "copy.db"))


def test_each_backup_under_load_has_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    """Four threads store and finish tasks; each backup is consistent: its counters are those of its tasks."""
    path, stopping, acknowledged = tmp_path / "tasks.db", threading.Event(), list[TaskRef]()
    store = SqliteStore(Database(path))

    def work() -> None:
        while not stopping.is_set():
            task, answer = a_task(), an_output(text="a" * 5_000)
            store.add(task, a_request(PROMPT))
            acknowledged.append(task.ref)
            store.save(task, claimed(task))
            store.save(claimed(task), claimed(task).completed(answer), answer)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            known = list(acknowledged)
            made = backups.back_up(path, tmp_path / f"{number}.db", now_ms=NOW_MS)
            backups.restore(tmp_path / f"{number}.db", tmp_path / str(number) / "tasks.db")
            with closing(SqliteStore(Database(tmp_path / str(number) / "tasks.db"))) as restored:
                for ref in known:
                    restored.peek(ref)
                counters = restored.overview()[0]
            assert (counters.total, counters.queued + counters.active) == (made.tasks, made.open_tasks)
            assert made.tasks >= len(known)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        store.close()
    assert made.tasks > 4


def test_what_was_deleted_is_not_in_a_backup(tmp_path: Path) -> None:
    """Not even in free pages, as it may be in a copy of the pages."""
    path, file = tmp_path / "tasks.db", tmp_path / "backup.db"
    with closing(SqliteStore(Database(path))) as store:
        gone = a_task()
        store.add(gone, a_request("Forget the word xylophone. " * 2_000))
        cancelled = gone.cancelled(now_ms=NOW_MS)
        store.save(gone, cancelled)
        store.delete(cancelled)
        backups.back_up(path, file, now_ms=NOW_MS)

    assert b"xylophone" not in file.read_bytes()


def test_nothing_is_overwritten(db: Path, backup: Path, tmp_path: Path) -> None:
    """Neither by a backup nor by a restore."""
    before, made = files(db), backup.read_bytes()

    with pytest.raises(ConfigurationError, match=r"backup\.db exists; nothing is overwritten"):
        backups.back_up(db, backup, now_ms=NOW_MS)
    with pytest.raises(ConfigurationError, match=r"tasks\.db exists; nothing is overwritten"):
        backups.restore(backup, db)

    assert files(db) == before
    assert backup.read_bytes() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "data"]


@pytest.mark.parametrize("left", ["-wal", "-journal"])
def test_a_log_that_was_left_behind_stops_a_restore(backup: Path, tmp_path: Path, left: str) -> None:
    """SQLite would apply it to the restored file."""
    path = tmp_path / "new" / "tasks.db"
    path.parent.mkdir()
    log = path.with_name(path.name + left)
    log.write_bytes(b"old")

    with pytest.raises(ConfigurationError) as refused:
        backups.restore(backup, path)

    assert str(refused.value).endswith(f"mkdir {path}.old && mv {log} {path}.old")
    assert not path.exists()


def test_a_restore_is_refused_while_a_server_holds_the_file(backup: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "tasks.db"
    with closing(OnlyProcess(path)), pytest.raises(ConfigurationError, match="in use by another server"):
        backups.restore(backup, path)

    assert not path.exists()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: -3 * 4096])


def cut_within_a_page(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1_000])


def without_a_page(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: 4096 * 3] + bytes(4096) + whole[4096 * 4 :])


def with_another_letter(file: Path) -> None:
    """Change one bit of a prompt: the structure of the file stays right."""
    whole = file.read_bytes()
    assert whole.count(b"sky blue") > 1
    file.write_bytes(whole.replace(b"sky blue", b"sky blte", 1))


def with_another_total(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE counters SET total = total + 1")
        db.commit()


def with_a_wrong_index(file: Path) -> None:
    """Change the name of a tenant in an index: all rows stay right, but a list would lack tasks."""
    with closing(sqlite3.connect(file)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'by_facets'").fetchone()
    whole, start = file.read_bytes(), (page - 1) * 4096
    index = whole[start : start + 4096]
    assert b"local" in index
    file.write_bytes(whole[:start] + index.replace(b"local", b"lobal", 1) + whole[start + 4096 :])


def without_its_digest(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("DELETE FROM backup")
        db.commit()


DAMAGES = (
    cut_off,
    cut_within_a_page,
    without_a_page,
    with_another_letter,
    with_another_total,
    with_a_wrong_index,
    without_its_digest,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_and_nothing_is_changed(
    backup: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "new" / "tasks.db"
    damage(backup)
    before = backup.read_bytes()

    with pytest.raises(ConfigurationError, match=r"The backup .*backup\.db is damaged and is not restored: "):
        backups.restore(backup, path)

    assert files(path) == {}
    assert backup.read_bytes() == before


def test_a_changed_bit_anywhere_in_a_page_with_rows_is_found(backup: Path, tmp_path: Path) -> None:
    """Or it changes nothing that is restored: it is in a part of a page that holds nothing."""
    whole, expected = backup.read_bytes(), None
    numbers = count()
    for place in range(100, len(whole), len(whole) // 60):
        backup.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        path = tmp_path / str(next(numbers)) / "tasks.db"
        try:
            backups.restore(backup, path)
        except ConfigurationError:
            continue
        expected = expected or content(path)
        assert content(path) == expected
    assert next(numbers) > 50


def test_what_is_not_a_database_of_ours_is_refused(tmp_path: Path) -> None:
    text, foreign, empty = tmp_path / "notes.txt", tmp_path / "foreign.db", tmp_path / "empty.db"
    text.write_text("This is not a database. " * 1_000)
    with closing(sqlite3.connect(foreign)) as opened:
        opened.execute("CREATE TABLE tasks (name TEXT)")
        opened.execute("PRAGMA user_version = 3")
    empty.touch()

    for file, said in (
        (text, "is damaged and is not restored: file is not a database"),
        (foreign, "was not made by LLM-Server"),
        (empty, "was not made by LLM-Server"),
        (tmp_path / "missing.db", "does not exist"),
        (tmp_path, "is a folder; name a file"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            backups.restore(file, tmp_path / "new" / "tasks.db")

    assert not (tmp_path / "new" / "tasks.db").exists()


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer, path = tmp_path / "newer.db", tmp_path / "new" / "tasks.db"
    later = Migration(version=9, purpose="test", apply=lambda db: None)
    Database(newer, migrations=[*MIGRATIONS, later]).close()

    with pytest.raises(ConfigurationError, match="it has version 9, and this LLM-Server knows 5 at most"):
        backups.restore(newer, path)
    with pytest.raises(ConfigurationError, match="it has version 9, and this LLM-Server knows 5 at most"):
        backups.back_up(newer, tmp_path / "backup.db", now_ms=NOW_MS)

    assert files(path) == {}
    assert not (tmp_path / "backup.db").exists()


def test_a_backup_of_an_older_version_is_restored_as_it_is_and_migrated_when_it_is_opened(tmp_path: Path) -> None:
    old, file, path = a_file_of_0_1_0(tmp_path), tmp_path / "backup.db", tmp_path / "new" / "tasks.db"

    made = backups.back_up(old, file, now_ms=NOW_MS)
    backups.restore(file, path)

    assert made.version == version(old) == version(path) == 1
    Database(path).close()
    assert version(path) == 5


def test_a_copy_without_a_digest_is_restored_but_said_to_have_none(db: Path, tmp_path: Path) -> None:
    """Such as one that `sqlite3 tasks.db ".backup copy.db"` has made."""
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(db)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)

    found = backups.restore(copy, tmp_path / "new" / "tasks.db")

    assert found == Backup(version=5, tasks=30, open_tasks=29, made_ms=None)


def test_a_damaged_copy_without_a_digest_is_refused(db: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(db)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    without_a_page(copy)

    with pytest.raises(ConfigurationError, match="is damaged and is not restored"):
        backups.restore(copy, tmp_path / "new" / "tasks.db")


def test_a_restored_database_can_be_backed_up_and_copied_again(backup: Path, tmp_path: Path) -> None:
    """Its old digest is of no use once a server has changed the rows."""
    path, again, copy = tmp_path / "new" / "tasks.db", tmp_path / "again.db", tmp_path / "copy.db"
    backups.restore(backup, path)
    tasks_in(path, 1)

    made = backups.back_up(path, again, now_ms=NOW_MS + 1)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)

    assert backups.restore(again, tmp_path / "a" / "tasks.db") == made
    assert backups.restore(copy, tmp_path / "b" / "tasks.db").tasks == 31


def test_a_database_with_a_log_is_not_taken_for_a_backup(tmp_path: Path) -> None:
    """A copy of the file alone would lack what is in the log."""
    path = tmp_path / "tasks.db"
    with closing(SqliteStore(Database(path))) as store:
        store.add(a_task(), a_request())
        with pytest.raises(ConfigurationError, match="it is a database in use, not a backup"):
            backups.restore(path, tmp_path / "new" / "tasks.db")


def test_a_backup_that_cannot_be_written_leaves_nothing(db: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere/backup\.db cannot be written: "):
        backups.back_up(db, tmp_path / "nowhere" / "backup.db", now_ms=NOW_MS)

    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_backup_that_breaks_off_leaves_nothing(db: Path, tmp_path: Path) -> None:
    """Here at its last write: SQLite cannot store such a number."""
    with pytest.raises(OverflowError):
        backups.back_up(db, tmp_path / "backup.db", now_ms=2**70)

    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_part_of_a_killed_backup_is_named_and_that_of_a_killed_restore_replaced(
    db: Path, backup: Path, tmp_path: Path
) -> None:
    """Another backup may be writing the first; the lock of the database shows that no restore writes the second."""
    path = tmp_path / "new" / "tasks.db"
    path.parent.mkdir()
    for part in (tmp_path / "next.db.part", path.with_name("tasks.db.part")):
        part.write_bytes(b"SQLite format 3\0 and no more")

    with pytest.raises(
        ConfigurationError, match=r"next\.db\.part exists: another command is writing it, or was killed"
    ):
        backups.back_up(db, tmp_path / "next.db", now_ms=NOW_MS)
    backups.restore(backup, path)

    assert not (tmp_path / "next.db").exists()
    assert sorted(files(path)) == ["tasks.db", "tasks.db.marker"]


def test_a_damaged_or_missing_or_empty_database_is_not_backed_up(db: Path, tmp_path: Path) -> None:
    """The message of the first says that it is damaged, and not that the backup cannot be written."""
    missing, empty, file = tmp_path / "missing.db", tmp_path / "empty.db", tmp_path / "backup.db"
    empty.touch()
    with db.open("r+b") as opened:
        opened.seek(4096 * 3)
        opened.write(b"\xa5" * 4096 * 4)

    for path, said in ((db, "is damaged"), (missing, "does not exist"), (empty, "is empty")):
        with pytest.raises(ConfigurationError, match=said):
            backups.back_up(path, file, now_ms=NOW_MS)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty.db"]


def test_a_task_that_came_after_a_backup_is_not_in_it(db: Path, backup: Path, tmp_path: Path) -> None:
    (late,) = tasks_in(db, 1)
    backups.restore(backup, tmp_path / "new" / "tasks.db")

    with closing(SqliteStore(Database(tmp_path / "new" / "tasks.db"))) as store, pytest.raises(TaskNotFound):
        store.get(late)
