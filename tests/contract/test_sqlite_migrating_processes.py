"""Several processes and one file of an older version: one migrates it, and none is left with half a file."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite.api_keys import USABLE_SINCE, SqliteKeys
from llm_server.storage.sqlite.database import Database, migrate
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.migrations import MIGRATIONS
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import a_key
from support.database_files import a_file_of_0_1_0, content, files, version
from support.holders import holding

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return a_file_of_0_1_0(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.migrations import Migration
def die(db):
    db.execute("DELETE FROM tasks")
    os.kill(os.getpid(), signal.SIGKILL)
Database(Path(sys.argv[1]), migrations=[Migration(version=3, purpose="test", apply=die)])
"""


def test_a_process_that_is_killed_in_a_migration_changes_nothing(old: Path, tmp_path: Path) -> None:
    """The next start migrates the file as if there had been no other."""
    twin = a_file_of_0_1_0(tmp_path / "twin")
    SqliteStore(Database(twin)).close()
    before = content(old)

    code = subprocess.run([sys.executable, "-c", KILLED, str(old)], env={"PYTHONPATH": SOURCE}, check=False).returncode

    assert code == -signal.SIGKILL
    assert (content(old), version(old)) == (before, 1)
    SqliteStore(Database(old)).close()
    assert content(old) == content(twin)


def test_a_disk_without_room_for_the_backup_leaves_the_file_as_it_was(old: Path) -> None:
    """Here no file of the process may grow beyond a part of the database's size."""
    untouched = files(old)

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    command = [sys.executable, "-m", "llm_server", "migrate", "--db", str(old)]
    refused = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=small_files_only,
    )

    said = f"The database {old} cannot be migrated and was not changed: the backup cannot be written: "
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(said)
    assert files(old) == untouched


HOLDER = """
import sys
from pathlib import Path
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
only = OnlyProcess(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


def an_older_server(path: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process that holds the file, and lets go of it when it is sent a line."""
    return holding(HOLDER, path)


def test_a_file_that_an_older_server_uses_is_not_migrated(old: Path) -> None:
    """It would find tables that it does not know at its next start, or before."""
    untouched = files(old)
    with an_older_server(old):
        for opened in (Database, migrate):
            with pytest.raises(ConfigurationError, match="in use by another server"):
                opened(old)

        assert files(old) == untouched


def test_keys_are_made_beside_an_older_server_without_a_migration(old: Path) -> None:
    key = a_key()
    with an_older_server(old), closing(SqliteKeys(Database(old, usable_since=USABLE_SINCE))) as keys:
        keys.add_key(key)

        assert keys.key(key.key_id) == key
        assert version(old) == 1
    SqliteStore(Database(old)).close()
    with closing(SqliteKeys(Database(old, usable_since=USABLE_SINCE))) as keys:
        assert keys.key(key.key_id) == key
        assert version(old) == MIGRATIONS[-1].version


def test_an_opening_waits_for_another_that_migrates(old: Path) -> None:
    """Which takes a moment and no more: a server may start while `llm-server keys` runs."""
    with an_older_server(old) as holder:
        assert holder.stdin is not None
        holder.stdin.write("let go\n")
        holder.stdin.flush()

        SqliteStore(Database(old)).close()

    assert version(old) == MIGRATIONS[-1].version


def test_the_process_that_holds_a_file_migrates_it(old: Path) -> None:
    """A server takes the lock first, and opens the file then."""
    with closing(OnlyProcess(old)), closing(SqliteStore(Database(old))) as store:
        assert version(old) == MIGRATIONS[-1].version
        assert store.overview()[0].total == 19
        with an_opening_of(old) as other:
            assert codes(other) == [0]


OPENING = """
import sys
from contextlib import closing
from pathlib import Path
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with closing(Database(path)) as database:
    assert SqliteStore(database).overview()[0].total == int(sys.argv[2])
    assert len(SqliteKeys(database).all_keys()) == int(sys.argv[3])
"""


@contextmanager
def an_opening_of(path: Path, tasks: int = 19, keys: int = 2) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to open a file, and expects so many tasks and keys in it."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENING, str(path), str(tasks), str(keys)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": SOURCE},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def codes(*processes: subprocess.Popen[str]) -> list[int]:
    """Let the processes go on, all at once; their exit codes."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
    return [process.wait(30) for process in processes]


def test_of_processes_that_open_a_file_at_once_one_migrates_it(old: Path) -> None:
    """There is one backup, and each of them can use the file."""
    before = content(old)
    with an_opening_of(old) as first, an_opening_of(old) as second, an_opening_of(old) as third:
        ends = codes(first, second, third)

    assert ends == [0, 0, 0]
    assert version(old) == MIGRATIONS[-1].version
    assert [name for name in files(old) if "backup" in name] == ["tasks.db.v1.backup"]
    assert content(old.with_name("tasks.db.v1.backup")) == before


def test_processes_that_make_a_file_at_once_make_one(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tasks.db"
    with an_opening_of(path, 0, 0) as first, an_opening_of(path, 0, 0) as second, an_opening_of(path, 0, 0) as third:
        ends = codes(first, second, third)

    left = set(files(path)) - {"tasks.db-wal", "tasks.db-shm"}  # SQLite leaves them if two processes close at once
    assert ends == [0, 0, 0]
    assert left == {"tasks.db", "tasks.db.marker"}
