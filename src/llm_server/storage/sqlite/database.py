"""Connections to one SQLite file, which is in WAL mode."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.storage.sqlite.migrations import MIGRATIONS, Migrated, Migration, bring_up_to_date
from llm_server.storage.sqlite.process_lock import OnlyProcess, cannot_be_opened
from llm_server.storage.sqlite.write_turns import turns_of

BUSY_S = 1.0
"""How long a connection waits for a lock of another process. It is short, because the HTTP loop waits too."""

_log = logging.getLogger(__name__)


class Database:
    """One connection to a SQLite file, which threads use one after the other. Writers wait for their turn.

    Opening a file of an older version migrates it. `usable_since` is the oldest version that the caller can use without
    a migration, if another process holds the file.

    Every method raises StorageUnavailable if SQLite reports an error.
    """

    def __init__(
        self,
        path: Path,
        *,
        durable: bool,
        usable_since: int | None = None,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._lock = threading.Lock()
        with _refused(path):
            file = _made_private(path)
        self._turn = partial(turns_of(file).turn, brief=not durable)
        with self._turn():
            self._connection, migrated = _opened(
                path, durable=durable, usable_since=usable_since, migrations=migrations
            )
        if migrated and migrated.backup:
            versions = {"from_version": migrated.from_version, "to_version": migrated.to_version}
            _log.warning("database migrated", extra={"database": path, **versions, "backup": migrated.backup})

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, which is rolled back if the block raises."""
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
        """Read one consistent state of the database, even with several statements."""
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


def migrate(path: Path) -> Migrated | None:
    """Migrate a file that no server is using.

    Returns None if the file has the current version already. Raises ConfigurationError.
    """
    with closing(OnlyProcess(path)):
        connection, migrated = _opened(path, durable=True)
        connection.close()
    return migrated


def _opened(
    path: Path, *, durable: bool, usable_since: int | None = None, migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[sqlite3.Connection, Migrated | None]:
    """Open a file, and migrate it to the current version if needed. Raises ConfigurationError."""
    with _refused(path), ExitStack() as undo:
        connection = sqlite3.connect(path.resolve(), isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        undo.callback(connection.close)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        if durable:  # on macOS, fsync alone does not flush the disk's cache; elsewhere this has no effect
            connection.execute("PRAGMA fullfsync = ON")
        migrated = bring_up_to_date(connection, path, migrations, usable_since=usable_since)
        undo.pop_all()
    return connection, migrated


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise cannot_be_opened(path, error) from error


def _made_private(path: Path) -> Path:
    """Create the file if it does not exist, with access for its owner only: it holds prompts and answers.

    SQLite gives the files next to it the same permissions. Returns the resolved path.
    """
    file = path.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    return file
