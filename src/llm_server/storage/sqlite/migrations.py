"""The versions of a database file, and the migrations from older versions to the current one.

The version of a file is its `user_version`. A new file has version 0 and no tables. Migrations change tables and
indexes. ADR 18 says how records change.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite import schema
from llm_server.storage.sqlite.file.marker import lost, refuse_loss, was_in_use
from llm_server.storage.sqlite.file.migration_backup import write_backup
from llm_server.storage.sqlite.file.process_lock import POLL_S, cannot_be_opened, held_by_us, in_use

_log = logging.getLogger(__name__)

NEW_FILE = 0
MAX_IDLE_LOG_BYTES = 64 * 1024 * 1024
"""To which size SQLite cuts its log (`-wal`) when it starts it anew, after a large write or a long read."""
LOCK_WAIT_S = 1.0
"""How long to wait for another command that may be migrating the file. A server holds the lock until it stops."""
_STATE = "SELECT (SELECT user_version FROM pragma_user_version), count(*), total(name = 'tasks') FROM sqlite_master"
"""One statement, so that a file that another process is creating shows neither version nor tables, or both."""


class Migration(Struct, frozen=True, kw_only=True):
    """One step to a newer version, for files of any older version. A released migration never changes.

    `apply` runs in a transaction. It must use `execute`, because `executescript` would commit the transaction.
    """

    version: int
    purpose: str
    apply: Callable[[sqlite3.Connection], None]


MIGRATIONS = (
    Migration(
        version=2,
        purpose="add the tables and indexes that a file of 0.1.0 may lack",
        apply=schema.create,
    ),
    Migration(
        version=3,
        purpose="index the tasks by status, and copy their metadata to where a listing reads it",
        apply=schema.index_by_status,
    ),
    Migration(
        version=4,
        purpose="index the tasks by what a listing can filter by, and let the file become smaller",
        apply=schema.index_by_facets,
    ),
    Migration(
        version=5,
        purpose="add the tables for the text of streamed tasks and for conversations",
        apply=schema.add_deltas_and_conversations,
    ),
)
"""In ascending order. The last one has the current version. A new file gets all of them."""


class Migrated(Struct, frozen=True, kw_only=True):
    """The result of a migration. A new file has no backup."""

    from_version: int
    to_version: int
    backup: Path | None


def check(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> tuple[int, Sequence[Migration]]:
    """Return the version of a file and the migrations that are pending. The file is only read.

    Raises:
        ConfigurationError: the file cannot be read, was not made by LLM-Server, has a newer version, or is empty
            although it has been in use.
    """
    refuse_loss(path)
    may_be_new = not was_in_use(path)
    file = path.resolve()
    # If a killed server left a log, it is read and kept. Without a log, `immutable` keeps SQLite from creating one.
    mode = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True)) as db:
            version = checked_version(db, path, migrations)
    except (sqlite3.Error, OSError) as error:
        raise cannot_be_opened(path, error) from error
    if version == NEW_FILE and not may_be_new:
        raise lost(path)
    return version, _pending(version, migrations)


def bring_up_to_date(
    db: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration] = MIGRATIONS,
    *,
    usable_since: int | None = None,
    may_be_new: bool = True,
) -> Migrated | None:
    """Apply all pending migrations, or none if one fails. Return None, with nothing written, if none is pending.

    A file that another process holds is not changed. It can still be used if its version is at least `usable_since`.

    Raises:
        ConfigurationError: the file was not made by LLM-Server, has a newer version, or is older and another process
            holds it; or it has no tables, although `may_be_new` is false; or a migration or the backup failed, and
            the file is unchanged.
    """
    version = checked_version(db, path, migrations)
    if version == NEW_FILE and not may_be_new:
        raise lost(path)
    if version == NEW_FILE:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # possible only while nothing is in the file
    db.execute(f"PRAGMA journal_size_limit = {MAX_IDLE_LOG_BYTES}")
    _use_wal(db)
    if not _pending(version, migrations):
        _compact_if_alone(db, path)
        return None
    if version == NEW_FILE:  # a new file, which no server can be using
        return _migrate(db, path, migrations)
    with held_by_us(path, wait_s=LOCK_WAIT_S) as is_ours:
        if is_ours:
            migrated = _migrate(db, path, migrations)
            _compact(db)
            return migrated
    version = checked_version(db, path, migrations)  # the other process may have migrated it meanwhile
    if _pending(version, migrations) and (usable_since is None or version < usable_since):
        raise in_use(path)
    return None


def _compact_if_alone(db: sqlite3.Connection, path: Path) -> None:
    """Compact a file whose migration was killed before it had done that, unless another process holds the file."""
    if not _can_shrink(db):
        with held_by_us(path, wait_s=0) as is_ours:
            if is_ours:
                _compact(db)


def _can_shrink(db: sqlite3.Connection) -> bool:
    return bool(db.execute("PRAGMA auto_vacuum").fetchone()[0])


def _compact(db: sqlite3.Connection) -> None:
    """Write a file of before version 4 anew, so that it can be shortened in small steps from then on.

    If this fails (it needs as much free disk as the file), the file stays usable; the next start tries again.
    """
    if not _can_shrink(db):
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("VACUUM")
        except sqlite3.Error as error:
            _log.warning("database not compacted", extra={"cause": str(error)})


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL mode. SQLite does not wait by itself here if another process is reading the file, so try again."""
    end_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end_s:
                raise
            time.sleep(POLL_S)
        else:
            return


def checked_version(db: sqlite3.Connection, path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the version of a file that this LLM-Server can use. Raises ConfigurationError for any other file."""
    version, tables, ours = db.execute(_STATE).fetchone()
    is_new, is_ours = version == NEW_FILE and not tables, version > NEW_FILE and ours
    if not is_new and not is_ours:
        raise cannot_be_opened(path, "it was not made by this version of LLM-Server")
    if version > (newest := migrations[-1].version):
        advice = f"Use the newer LLM-Server, or the backup from before the migration ({path.name}.v<version>.backup)"
        raise cannot_be_opened(path, f"it has version {version}, and this LLM-Server knows {newest} at most. {advice}")
    return int(version)


def _pending(version: int, migrations: Sequence[Migration]) -> Sequence[Migration]:
    return [migration for migration in migrations if migration.version > version]


def _migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> Migrated | None:
    """Back up and migrate in one transaction: no other write comes between them, and no step is applied alone."""
    db.execute("BEGIN IMMEDIATE")
    try:
        version = checked_version(db, path, migrations)  # another process may have migrated it meanwhile
        pending = _pending(version, migrations)
        backup = _backed_up(path, version) if pending and version != NEW_FILE else None
        _apply(db, path, pending, backup)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite rolls back by itself after some errors
            db.execute("ROLLBACK")
        raise
    return Migrated(from_version=version, to_version=pending[-1].version, backup=backup) if pending else None


def _backed_up(path: Path, version: int) -> Path:
    try:
        return write_backup(path.resolve(), version)
    except (sqlite3.Error, OSError) as error:
        raise _not_migrated(path, f"the backup cannot be written: {error}") from error


def _apply(db: sqlite3.Connection, path: Path, pending: Sequence[Migration], backup: Path | None) -> None:
    """Apply migrations. If one fails, remove the backup: otherwise each further start would add one."""
    try:
        for migration in pending:
            migration.apply(db)
            db.execute(f"PRAGMA user_version = {migration.version}")
    except Exception as error:  # a migration may raise anything; the file must stay unchanged
        if backup:
            backup.unlink()
        raise _not_migrated(path, f"migration {migration.version} failed: {error}") from error


def _not_migrated(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The database {path} cannot be migrated and was not changed: {reason}.")
