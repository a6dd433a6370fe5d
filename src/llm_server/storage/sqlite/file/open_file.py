"""Notices that the file of an open database was removed, replaced or emptied: later commits would be lost."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


class FileMissing(sqlite3.OperationalError):
    """The path of the database no longer leads to the file that this process has open."""


class OpenFile:
    """The database file that this process has open, and its log (`-wal`). Make it once the database was read."""

    def __init__(self, path: Path) -> None:
        file = path.absolute()
        self._file, self._log = str(file), f"{file.resolve()}-wal"
        self._file_id, self._log_id = _identity(self._file), _identity(self._log)

    def loss(self) -> str | None:
        """Return what happened to the file, such as "was removed"; None while all is well. Takes a few µs."""
        try:
            found = os.stat(self._file)
        except OSError:
            return "was removed"
        if (found.st_dev, found.st_ino) != self._file_id:
            return "was replaced by another file"
        if not found.st_size:
            return "was emptied"
        if self._log_id is not None and _identity(self._log) != self._log_id:
            return f"lost its log {os.path.basename(self._log)}"
        return None

    def check(self) -> None:
        """Raise FileMissing if something happened to the file."""
        if loss := self.loss():
            raise FileMissing(f"the file {loss}")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
