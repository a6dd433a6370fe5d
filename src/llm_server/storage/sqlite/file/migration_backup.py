"""Backs up a database file before a migration, into the same folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

from llm_server.storage.sqlite.file.new_file import new_file, part_of


def write_backup(file: Path, version: int) -> Path:
    """Copy the committed content of a database to `<file>.v<version>.backup`.

    When this returns, the copy is complete and flushed to the disk. An older backup is kept: the name of the new one
    then ends in `.2`, `.3`, ... Only one process may do this at a time.

    Raises:
        sqlite3.Error, OSError: the copy cannot be written; the incomplete copy was removed.
    """
    backup = _free_name(file, version)
    part_of(backup).unlink(missing_ok=True)  # left by a process that was killed; it may be incomplete
    with (
        new_file(backup) as part,
        closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(part)) as copy,
    ):
        copy.execute("PRAGMA journal_mode = OFF")  # an incomplete copy is removed, not rolled back
        source.backup(copy)
    return backup


def _free_name(file: Path, version: int) -> Path:
    first = file.with_name(f"{file.name}.v{version}.backup")
    names = (first if n == 1 else first.with_name(f"{first.name}.{n}") for n in count(1))
    return next(name for name in names if not name.exists())
