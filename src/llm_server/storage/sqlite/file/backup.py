"""Backs up a database file before a migration, into the same folder."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path


def write_backup(file: Path, version: int) -> Path:
    """Copy the committed content of a database to `<file>.v<version>.backup`.

    When this returns, the copy is complete and flushed to the disk. An older backup is kept: the name of the new one
    then ends in `.2`, `.3`, ... Only one process may do this at a time.

    Raises:
        sqlite3.Error, OSError: the copy cannot be written; the incomplete copy was removed.
    """
    part = file.with_name(f"{file.name}.v{version}.backup.part")
    part.unlink(missing_ok=True)  # left by a process that was killed; it may be incomplete
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with (
            closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(part)) as copy,
        ):
            copy.execute("PRAGMA journal_mode = OFF")  # an incomplete copy is removed, not rolled back
            source.backup(copy)
        _sync(part)
        backup = part.rename(_free_name(file, version))
        _sync(file.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return backup


def _free_name(file: Path, version: int) -> Path:
    first = file.with_name(f"{file.name}.v{version}.backup")
    names = (first if n == 1 else first.with_name(f"{first.name}.{n}") for n in count(1))
    return next(name for name in names if not name.exists())


def _sync(path: Path) -> None:
    """Flush a file, or the list of names of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
