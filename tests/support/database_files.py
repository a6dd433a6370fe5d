"""Inspect database files of the embedded server from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "0.1.0"


def a_file_of_0_1_0(folder: Path) -> Path:
    """Return the file that a stopped server of 0.1.0 leaves, in a new folder, with the golden records."""
    file = folder / "data" / "tasks.db"
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as db:
        db.executescript((GOLDEN / "sqlite.sql").read_text(encoding="utf-8"))
        db.execute("PRAGMA journal_mode = WAL")
    return file


def version(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def content(file: Path) -> list[str]:
    """Return all tables with their rows, as SQL, without the schema version."""
    with closing(sqlite3.connect(file)) as db:
        return list(db.iterdump())


def schema(file: Path) -> dict[str, str]:
    """Return tables and indexes by name, without line breaks."""
    with closing(sqlite3.connect(file)) as db:
        found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: " ".join(sql.split()) for name, sql in found}


def files(file: Path) -> dict[str, bytes]:
    """Return the files in a database's folder, without the lock file, which is always empty."""
    return {path.name: path.read_bytes() for path in file.parent.iterdir() if not path.name.endswith(".lock")}
