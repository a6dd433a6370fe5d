"""Backs up a database file, whether a server is using it or not, and restores a backup where no database is.

A backup is a database file with one more table, `backup`: when it was made, and a digest of all rows. SQLite checks the
structure of a file, but not its content; the digest shows a change of either.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite.connections.failures import is_damage
from llm_server.storage.sqlite.database import connect, refused_as_configuration
from llm_server.storage.sqlite.file.marker import mark_in_use, refuse_loss
from llm_server.storage.sqlite.file.new_file import new_file, part_of
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.migrations import NEW_FILE, checked_version

_OURS = {"tasks", "requests", "outputs", "counters"}
"""Tables that a file of every version has."""
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
_SCHEMA = "SELECT type, name, sql FROM sqlite_master WHERE name <> 'backup' ORDER BY type, name"
_OPEN = "SELECT count(*), total(status NOT IN ('Completed', 'Failed', 'Cancelled')) FROM tasks"
_WAL_MODE = 2
"""What the byte at offset 18 of a file says once a server has opened it (https://sqlite.org/fileformat.html)."""


class Backup(Struct, frozen=True, kw_only=True):
    """What a backup holds. `made_ms` is in Unix milliseconds; None if the file has no digest that could be checked."""

    version: int
    tasks: int
    open_tasks: int
    made_ms: int | None


def back_up(path: Path, file: Path, *, now_ms: int) -> Backup:
    """Write one consistent state of a database into a new file: it has every write that was acknowledged before.

    Servers and commands go on reading and writing meanwhile. What was deleted is not in the copy. When this returns,
    the file is complete and flushed to the disk; before, it does not exist.

    Raises:
        ConfigurationError: the database cannot be used, or the file exists or cannot be written.
    """
    refuse_loss(path)
    if not path.exists():
        raise ConfigurationError(f"The database {path} does not exist; name the file with --db or LLM_SERVER_DB.")
    _refuse_folder(file)
    with refused_as_configuration(path), closing(connect(path)) as db:
        if checked_version(db, path) == NEW_FILE:
            raise ConfigurationError(f"The database {path} is empty: there is nothing to back up.")
        with _written(file), new_file(file) as part:
            _copy(db, part)
            return _sealed(part, now_ms)


def restore(file: Path, path: Path) -> Backup:
    """Check a backup, and put a copy of it where no database is. The next start of a server goes on with its tasks.

    Nothing is changed unless the whole backup is good. A backup of an older version is migrated at the next start.

    Raises:
        ConfigurationError: a server holds the path, or a database or its log is there; the backup is missing, damaged,
            of a newer version or of another program; or the copy cannot be written.
    """
    _refuse_unreadable(file)
    _refuse_folder(path)
    with closing(OnlyProcess(path)):
        _refuse_database(path)
        target = path.resolve()
        with _written(path):
            part_of(target).unlink(missing_ok=True)  # left by a restore that was killed
            with new_file(target) as part:
                shutil.copyfile(file, part)
                backup = _checked(part, file)
        mark_in_use(path)
    return backup


@contextmanager
def _written(file: Path) -> Iterator[None]:
    """Say which file cannot be written. Damage of the database that is read passes unchanged."""
    try:
        yield
    except FileExistsError as error:
        part = part_of(file)
        if part.exists():
            raise ConfigurationError(
                f"{part} exists: another command is writing it, or was killed. Remove it if no command is."
            ) from error
        raise ConfigurationError(f"{file} exists; nothing is overwritten. Choose another name.") from error
    except (OSError, UnicodeError, sqlite3.Error) as error:
        if is_damage(error):
            raise
        raise ConfigurationError(f"{file} cannot be written: {error}.") from error


def _copy(db: sqlite3.Connection, part: Path) -> None:
    """Copy what is stored, without free pages. It is one read transaction, which delays no writer."""
    db.execute("VACUUM INTO ?", (str(part),))


def _sealed(part: Path, now_ms: int) -> Backup:
    """Add the table `backup` to a copy. A restored database has an older one."""
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")  # an incomplete file is removed, not rolled back
        db.execute("DROP TABLE IF EXISTS backup")
        digest = _digest(db)
        db.execute("CREATE TABLE backup (made_ms INTEGER NOT NULL, digest TEXT NOT NULL)")
        db.execute("INSERT INTO backup VALUES (?, ?)", (now_ms, digest))
        return _described(db, made_ms=now_ms)


def _refuse_folder(path: Path) -> None:
    if os.path.isdir(path):  # unlike Path.is_dir, it raises nothing for a name that cannot be
        raise ConfigurationError(f"{path} is a folder; name a file.")


def _refuse_unreadable(file: Path) -> None:
    _refuse_folder(file)
    if not file.is_file():
        raise ConfigurationError(f"The backup {file} does not exist.")
    for log in (f"{file}-wal", f"{file}-journal"):
        if Path(log).exists() and Path(log).stat().st_size:
            raise ConfigurationError(
                f"{file} has a log, {log}: it is a database in use, not a backup. "
                f"Make a backup of it first: llm-server backup --db {file} NEW_FILE"
            )


def _refuse_database(path: Path) -> None:
    """Raise ConfigurationError if a database or its log is at the path. SQLite would apply an old log to a new file."""
    file = path.resolve()
    there = [
        str(name) for end in ("", "-wal", "-shm", "-journal") if (name := file.with_name(file.name + end)).exists()
    ]
    if there:
        old = shlex.quote(f"{file}.old")
        raise ConfigurationError(
            f"{there[0]} exists; nothing is overwritten. Name another file with --db or LLM_SERVER_DB, or move what is "
            f"there away: mkdir {old} && mv {shlex.join(there)} {old}"
        )


def _checked(part: Path, file: Path) -> Backup:
    """Return what a copy of a backup holds. Raises ConfigurationError if it is not a whole backup of ours."""
    try:
        with closing(sqlite3.connect(f"{part.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            version = checked_version(db, file)
            tables = {name for (name,) in db.execute(_TABLES)}
            if version == NEW_FILE or not tables >= _OURS:
                raise ConfigurationError(f"{file} was not made by LLM-Server; it is not restored.")
            if faults := [fault for (fault,) in db.execute("PRAGMA integrity_check(3)") if fault != "ok"]:
                raise _damaged(file, "; ".join(faults))
            sealed = None
            if "backup" in tables and not _was_served(part):
                sealed = db.execute("SELECT made_ms, digest FROM backup").fetchone()
                if sealed is None or sealed[1] != _digest(db):
                    raise _damaged(file, "its content has changed since it was made")
            return _described(db, made_ms=sealed[0] if sealed else None)
    except sqlite3.DatabaseError as error:
        raise _damaged(file, str(error)) from error


def _was_served(file: Path) -> bool:
    """Return whether a server has opened a file since it was written, so that the rows may differ from the digest."""
    with file.open("rb") as opened:
        return opened.read(19)[18] == _WAL_MODE


def _damaged(file: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The backup {file} is damaged and is not restored: {reason}.")


def _described(db: sqlite3.Connection, *, made_ms: int | None) -> Backup:
    tasks, open_tasks = db.execute(_OPEN).fetchone()
    version = db.execute("PRAGMA user_version").fetchone()[0]
    return Backup(version=version, tasks=tasks, open_tasks=int(open_tasks), made_ms=made_ms)


def _digest(db: sqlite3.Connection) -> str:
    """Return the SHA-256 of the version, the schema and all rows, as hex. Texts are read as bytes: they may be damaged.

    Rows come in the order of their table, because an index could have another one.
    """
    found = sha256(str(db.execute("PRAGMA user_version").fetchone()[0]).encode())
    tables = [name for (name,) in db.execute(_TABLES) if name != "backup"]
    db.text_factory = bytes
    try:
        for query in (_SCHEMA, *(f'SELECT * FROM "{table}" NOT INDEXED' for table in tables)):
            for row in db.execute(query):
                found.update(msgspec.msgpack.encode(row))
    finally:
        db.text_factory = str
    return found.hexdigest()
