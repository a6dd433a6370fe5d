"""One SQLite file in WAL mode: a writer, which commits in groups, and readers, which never wait for it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.orchestration.domain.ports.store import Overview
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite import overview
from llm_server.storage.sqlite.connections.failures import Failures, damage, is_damage, is_locked
from llm_server.storage.sqlite.connections.latest_read import LatestRead
from llm_server.storage.sqlite.connections.readers import Readers
from llm_server.storage.sqlite.connections.writer import Command, T, Work, Writer
from llm_server.storage.sqlite.file.marker import mark_in_use, refuse_loss, was_in_use
from llm_server.storage.sqlite.file.process_lock import OnlyProcess, cannot_be_opened
from llm_server.storage.sqlite.migrations import MIGRATIONS, Migrated, Migration, bring_up_to_date, checked_version

BUSY_S = 1.0
"""How long the writer waits for a lock of another process. It is short, because callers wait too."""
PATIENT_BUSY_S = 30.0
"""The same for a command that makes many writes beside a busy server."""

_log = logging.getLogger(__name__)


class Database:
    """A SQLite file that the threads of this process share.

    Opening a file of an older version migrates it. `usable_since` is the oldest version that the caller can use without
    a migration, if another process holds the file. `busy_s` is how long a write waits for another process.

    Raises:
        ConfigurationError: the file cannot be opened or migrated; or it must be migrated, and another process holds it.
    """

    def __init__(
        self,
        path: Path,
        *,
        usable_since: int | None = None,
        migrations: Sequence[Migration] = MIGRATIONS,
        busy_s: float = BUSY_S,
    ) -> None:
        refuse_loss(path)
        with refused_as_configuration(path):
            _make_private(path.resolve())
        connection, migrated = _opened(path, usable_since=usable_since, migrations=migrations)
        connection.execute(f"PRAGMA busy_timeout = {round(busy_s * 1000)}")
        self._path = path
        self._failures = Failures(path)
        self._latest_overview = LatestRead(overview.read)
        self._writer = Writer(connection, self._failures, self._latest_overview)
        self._readers = Readers(partial(connect, path), self._failures)
        if migrated and migrated.backup:
            versions = {"from_version": migrated.from_version, "to_version": migrated.to_version}
            _log.warning("database migrated", extra={"database": path, **versions, "backup": migrated.backup})

    def write(self, work: Work[T], line: Line = OF_NO_TENANT) -> T:
        """Carry out `work` in a transaction, and return its result after the commit. If it raises, nothing is stored.

        It waits in a line for its turn. Inside a use case that runs as one command (`put`), `work` becomes part of that
        command.

        Raises:
            StorageUnavailable: SQLite reported an error; it is unknown whether anything was stored.
        """
        return self._writer.run(work, line)

    def put(self, command: Command[T], line: Line = OF_NO_TENANT) -> None:
        """Hand a command to the writer, where it waits in a line, without waiting for it.

        Raises StorageUnavailable if the database is closed.
        """
        self._writer.put(command, line)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call `call` once the running command is committed; at once if none is running on this thread."""
        self._writer.after_commit(call)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read one consistent state of the database, even with several statements. Raises StorageUnavailable.

        Inside a command, the state has what the command has written.
        """
        if self._writer.is_this_thread:
            try:
                yield self._writer.connection
            except sqlite3.Error as error:
                raise self._failures.of(error) from error
        else:
            try:
                with self._readers.reading() as connection:
                    yield connection
            finally:
                self._latest_overview.note_read()

    def known_overview(self) -> Overview | None:
        """Return the overview of the last commit from memory; None if it is older than 50 ms. See `KnownOverview`."""
        return self._latest_overview.known()

    @property
    def is_known_broken(self) -> bool:
        """Whether `check` would fail without looking at the file."""
        return self._failures.is_known

    def check(self) -> None:
        """Raise StorageBroken if the operator has to repair the file, as far as this process knows. Reads nothing."""
        self._failures.check()

    def empty_log(self, *, rewrite: bool = False) -> None:
        """Copy the log (`-wal`) into the file and cut it to length 0, so that it holds nothing that was deleted.

        If another process is reading or writing for longer than a second, this is only logged. With `rewrite`, write
        the file anew first, so that its unused bytes hold nothing either; no process can write meanwhile.
        """
        try:
            with closing(connect(self._path)) as connection:
                connection.execute("PRAGMA fullfsync = ON")
                if rewrite:
                    connection.execute("VACUUM")
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise self._failures.of(error) from error
        if busy:
            _log.warning("database log not emptied", extra={"database": self._path, "cause": "it is in use"})

    def close(self) -> None:
        """Carry out the commands that wait, and close the file. Later calls raise StorageUnavailable."""
        self._readers.close()
        self._writer.close()


def migrate(path: Path) -> Migrated | None:
    """Migrate a file that no server is using.

    Returns None if the file has the current version already. Raises ConfigurationError.
    """
    with closing(OnlyProcess(path)):
        refuse_loss(path)
        with refused_as_configuration(path), closing(connect(path)) as found:
            if checked_version(found, path) == MIGRATIONS[-1].version:
                return None  # opening it would change the header of a backup, whose digest would no longer count
        connection, migrated = _opened(path)
        connection.close()
    return migrated


def _opened(
    path: Path, *, usable_since: int | None = None, migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[sqlite3.Connection, Migrated | None]:
    """Open a file, and migrate it to the current version if needed. Raises ConfigurationError."""
    refuse_loss(path)
    may_be_new = not was_in_use(path)
    with refused_as_configuration(path), ExitStack() as undo:
        connection = connect(path)
        undo.callback(connection.close)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not flush the disk's cache
        connection.execute("PRAGMA secure_delete = ON")  # overwrite what is deleted, as some builds do by default
        migrated = bring_up_to_date(connection, path, migrations, usable_since=usable_since, may_be_new=may_be_new)
        mark_in_use(path)
        undo.pop_all()
    return connection, migrated


def connect(path: Path) -> sqlite3.Connection:
    """Open a file that exists: if it was removed, a reader must not make an empty one in its place."""
    uri = f"{path.resolve().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_S)


@contextmanager
def refused_as_configuration(path: Path) -> Iterator[None]:
    """Raise SQLite's errors and those of the disk as ConfigurationError, with what the operator can do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if is_damage(error) and was_in_use(path):  # else it may never have been a database of ours
            raise ConfigurationError(damage(path, error)) from error
        if is_locked(error):
            raise cannot_be_opened(path, "another process holds its lock") from error
        raise cannot_be_opened(path, error) from error


def _make_private(file: Path) -> None:
    """Create the file if it does not exist, with access for its owner only: it holds prompts and answers.

    SQLite gives the files next to it the same permissions.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
