"""One SQLite file (WAL) and connections to it."""

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
"""Only somebody outside this process can make us wait, and the HTTP loop waits with us."""

_log = logging.getLogger(__name__)


class Database:
    """One connection behind a lock; it writes when it is its turn. Every error is StorageUnavailable.

    Opening a file of an older version migrates it. `usable_since` is the oldest version that the owner of this
    connection can use as it is, while another process holds the file.
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


def migrate(path: Path) -> Migrated | None:
    """Migrate a file that no server uses; None when it is of today's version already. Raises ConfigurationError."""
    with closing(OnlyProcess(path)):
        connection, migrated = _opened(path, durable=True)
        connection.close()
    return migrated


def _opened(
    path: Path, *, durable: bool, usable_since: int | None = None, migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[sqlite3.Connection, Migrated | None]:
    """A connection to a file of today's version. Raises ConfigurationError."""
    with _refused(path), ExitStack() as undo:
        connection = sqlite3.connect(path.resolve(), isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        undo.callback(connection.close)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        if durable:  # on macOS an fsync stops at the disk's cache; elsewhere this says nothing
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
    """Make a new file readable by its owner alone: it holds prompts and answers. SQLite's side files follow it."""
    file = path.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    return file
