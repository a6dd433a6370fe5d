"""What an error of SQLite means for the callers of the store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llm_server.orchestration.domain.errors import StorageMisconfigured, StorageUnavailable

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF
"""The low byte of an extended result code is its primary code (https://sqlite.org/rescode.html)."""


def is_damage(error: BaseException) -> bool:
    """Return whether SQLite found the file damaged. No later try helps then."""
    return _code(error) in _DAMAGE


def damage(path: Path, error: BaseException) -> str:
    """Say that a file is damaged, and what to do."""
    return (
        f"The database {path} is damaged: {error}. Stop the server and restore a backup of the file; or write what can "
        f"still be read into a new file: sqlite3 {path} .recover | sqlite3 new.db"
    )


def unavailable() -> StorageUnavailable:
    return StorageUnavailable("The database does not answer; try again.")


def translated(error: sqlite3.Error, path: Path) -> StorageUnavailable:
    """Return StorageMisconfigured if the file is damaged, else StorageUnavailable, with the error as its cause."""
    if is_damage(error):
        failure: StorageUnavailable = StorageMisconfigured(damage(path, error))
    elif _code(error) in _LOCKED:
        failure = StorageUnavailable("Another process holds the lock of the database; try again.")
    else:
        failure = unavailable()
    failure.__cause__ = error
    return failure


def _code(error: BaseException) -> int | None:
    """Return the primary result code of an error; None for an error that Python's module itself raises."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE
