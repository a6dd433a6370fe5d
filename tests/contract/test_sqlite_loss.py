"""A database file that was damaged, emptied, removed or replaced: what is wrong is said, and nothing starts over."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import ConfigurationError, StorageBroken, StorageUnavailable
from llm_server.storage.sqlite import database
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.migrations import check
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_request, a_task

PAGE_BYTES = 4096


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A database with 200 tasks, closed."""
    path = tmp_path / "tasks.db"
    with closing(SqliteStore(Database(path))) as store:
        for number in range(200):
            store.add(a_task(f"t{number}"), a_request())
    return path


@pytest.fixture
def opened(used: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(Database(used))) as store:
        yield store


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM")


LOSSES = pytest.mark.parametrize("lose", [emptied, Path.unlink, without_tables])


@LOSSES
def test_a_file_that_was_in_use_is_not_started_over(used: Path, lose: Callable[[Path], None]) -> None:
    lose(used)

    for opening in (Database, database.migrate, check):
        with pytest.raises(ConfigurationError) as refused:
            opening(used)
        assert str(refused.value) == (
            f"The database {used} is missing or empty, but it has been in use: its tasks and keys would be lost. "
            f"Restore the file; or, to start with an empty database, remove {used}.marker."
        )


def through_a_file_link(folder: Path) -> tuple[Path, Path]:
    link = folder / "tasks.db"
    link.symlink_to(folder / "volume" / "tasks.db")
    return link, link


def through_a_folder_link(folder: Path) -> tuple[Path, Path]:
    link = folder / "data"
    link.symlink_to(folder / "volume")
    return link / "llm-server" / "tasks.db", link


def through_a_link_to_itself(folder: Path) -> tuple[Path, Path]:
    link = folder / "tasks.db"
    link.symlink_to(link)
    return link, link


@pytest.mark.parametrize("linked", [through_a_file_link, through_a_folder_link, through_a_link_to_itself])
@pytest.mark.parametrize("opening", [Database, OnlyProcess, database.migrate, check])
def test_a_link_to_nothing_is_refused(
    tmp_path: Path, linked: Callable[[Path], tuple[Path, Path]], opening: Callable[[Path], object]
) -> None:
    """The volume behind it is not mounted. An empty database in its place would hide all tasks and keys."""
    path, link = linked(tmp_path)

    with pytest.raises(ConfigurationError) as refused:
        opening(path)

    assert str(refused.value) == (
        f"The database {path} cannot be opened: {link} is a link to {link.readlink()}, which does not exist. "
        "If it is on a volume, mount the volume; or remove the link."
    )
    assert list(tmp_path.iterdir()) == [tmp_path / link.name]


def test_a_link_to_a_file_or_folder_that_exists_is_followed(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    Database(tmp_path / "data" / "tasks.db").close()
    (tmp_path / "tasks.db").symlink_to(tmp_path / "volume" / "tasks.db")
    Database(tmp_path / "tasks.db").close()

    assert (tmp_path / "volume" / "tasks.db").is_file()


def test_an_emptied_file_s_log_is_kept(used: Path) -> None:
    """SQLite would remove it, and it may have what a rescue needs."""
    emptied(used)
    log = used.with_name("tasks.db-wal")
    log.write_bytes(b"what is left")

    with pytest.raises(ConfigurationError):
        Database(used)

    assert log.read_bytes() == b"what is left"


@LOSSES
def test_without_its_marker_a_file_starts_anew(used: Path, lose: Callable[[Path], None]) -> None:
    lose(used)
    used.with_name("tasks.db.marker").unlink()

    with closing(SqliteStore(Database(used))) as store:
        assert store.overview()[0].total == 0


def test_a_restored_file_and_a_copy_without_a_marker_are_accepted(used: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.db"
    shutil.copy(used, earlier)
    with closing(SqliteStore(Database(used))) as store:
        store.add(a_task("later"), a_request())
    shutil.copy(earlier, used)

    for path in (used, earlier):
        with closing(SqliteStore(Database(path))) as store:
            assert store.overview()[0].total == 200
        assert path.with_name(f"{path.name}.marker").exists()


def test_the_marker_tells_what_it_is_for(used: Path) -> None:
    marker = used.with_name("tasks.db.marker")

    assert "LLM-Server does not start if that file is missing or empty" in marker.read_text()
    assert marker.stat().st_mode & 0o777 == 0o600


def test_a_damaged_page_is_named(used: Path) -> None:
    """The first page of the table of tasks is overwritten; the list of tables is whole."""
    with closing(sqlite3.connect(used)) as db:
        [[page]] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchall()
    with used.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(os.urandom(PAGE_BYTES))

    with closing(SqliteStore(Database(used))) as store:
        for use in (lambda: store.get(a_task("t1").ref), lambda: store.add(a_task("new"), a_request())):
            with pytest.raises(StorageBroken) as refused:
                use()
            assert f"The database {used} is damaged: database disk image is malformed." in refused.value.cause
            assert f"sqlite3 {used} .recover" in refused.value.cause


def test_a_damaged_first_page_is_named_at_the_start(used: Path) -> None:
    with used.open("r+b") as file:
        file.write(os.urandom(PAGE_BYTES))

    with pytest.raises(ConfigurationError, match="is damaged: file is not a database"):
        Database(used)


@LOSSES
def test_a_file_lost_under_a_running_server_takes_no_writes(
    used: Path, opened: SqliteStore, lose: Callable[[Path], None]
) -> None:
    opened.add(a_task("before"), a_request())
    lose(used)

    with pytest.raises(StorageBroken) as refused:
        opened.add(a_task("after"), a_request())

    assert "while the server was using it, so nothing more is stored" in refused.value.cause


def test_a_file_put_back_takes_writes_again(used: Path, opened: SqliteStore, tmp_path: Path) -> None:
    used.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StorageBroken):
        opened.add(a_task("lost"), a_request())
    (tmp_path / "elsewhere.db").rename(used)

    opened.add(a_task("stored"), a_request())

    assert opened.overview()[0].total == 201


def test_other_errors_of_sqlite_are_not_damage(used: Path, opened: SqliteStore) -> None:
    with closing(sqlite3.connect(used)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageUnavailable) as refused:
            opened.add(a_task("waits"), a_request())

    assert not isinstance(refused.value, StorageBroken)
    assert str(refused.value) == "Another process holds the lock of the database; try again."
