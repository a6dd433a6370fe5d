"""Tells SQLite's errors apart: those that may pass, and those that the operator has to end."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from llm_server.orchestration.domain.errors import StorageBroken, StorageDamaged, StorageMissing, StorageUnavailable
from llm_server.storage.sqlite.file.open_file import OpenFile

_log = logging.getLogger(__name__)

_PRIMARY_CODE = 0xFF
"""The low byte of an extended result code is its primary code (https://sqlite.org/rescode.html)."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SENTENCES = {
    sqlite3.SQLITE_BUSY: "Another process holds the lock of the database; try again.",
    sqlite3.SQLITE_LOCKED: "Another process holds the lock of the database; try again.",
    sqlite3.SQLITE_FULL: "The database's disk is full; try again when it has space.",
    sqlite3.SQLITE_IOERR: "The database's disk reports an error; try again.",
    sqlite3.SQLITE_READONLY: "The database file cannot be written; try again when its permissions are right.",
    sqlite3.SQLITE_CANTOPEN: "The database file cannot be opened; try again.",
}


class Failures:
    """Makes the server's errors of SQLite's, and remembers what the operator has to repair. Threads share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = OpenFile(path)
        self._damage: str | None = None
        self._logged_loss: str | None = None

    def of(self, error: sqlite3.Error) -> StorageUnavailable:
        """Return what an error of SQLite means to a caller. What the operator has to repair is logged once."""
        failure = self._missing() or self._damaged(error) or _passing(error)
        failure.__cause__ = error
        return failure

    @property
    def is_known(self) -> bool:
        """Whether this process knows of something that the operator has to repair. The file is not looked at."""
        return self._logged_loss is not None or self._damage is not None

    def check(self) -> None:
        """Raise what the operator has to repair, as far as this process knows. The database is not read.

        Raises:
            StorageMissing: the file was removed, replaced or emptied.
            StorageDamaged: SQLite has found since the start that the file is damaged.
        """
        if missing := self._missing():
            raise missing
        if self._damage is not None:
            raise StorageDamaged(self._path.name, self._damage)

    def _missing(self) -> StorageBroken | None:
        loss = self.file.loss()
        if loss is None:
            self._logged_loss = None
            return None
        cause = (
            f"The database {self._path} {loss} while the server was using it, so nothing more is stored. Stop the "
            "server; move the file back, or put a backup in its place and remove its -wal and -shm files; and start "
            "the server again."
        )
        if loss != self._logged_loss:
            self._logged_loss = loss
            _log.error("database file missing", extra={"database": self._path, "cause": cause})
        return StorageMissing(self._path.name, loss, cause)

    def _damaged(self, error: sqlite3.Error) -> StorageBroken | None:
        if not is_damage(error):
            return None
        cause = f"{damage(self._path, error)}."
        if self._damage is None:
            self._damage = cause
            _log.error("database damaged", extra={"database": self._path, "cause": cause})
        return StorageDamaged(self._path.name, cause)


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite found the file damaged. No later try helps then."""
    return _code(error) in _DAMAGE


def damage(path: Path, error: BaseException) -> str:
    """Say that a file is damaged, and what to do."""
    return (
        f"The database {path} is damaged: {error}. Stop the server and restore a backup of the file; or write what can "
        f"still be read into a new file: sqlite3 {path} .recover | sqlite3 new.db"
    )


def is_locked(error: BaseException) -> bool:
    """Return whether another process holds a lock of the file."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: BaseException) -> int:
    """Return the primary result code of an error; 0 for an error that Python's module itself raises."""
    return int(getattr(error, "sqlite_errorcode", 0)) & _PRIMARY_CODE


def _passing(error: sqlite3.Error) -> StorageUnavailable:
    sentence = _SENTENCES.get(_code(error))
    return StorageUnavailable(sentence) if sentence else unavailable()


def unavailable() -> StorageUnavailable:
    """Return the error for an outcome that is not known."""
    return StorageUnavailable("The database does not answer; try again.")
