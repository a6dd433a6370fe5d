"""The command line's part for the version of the SQLite file: which it has, and bringing it up to date."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display

if TYPE_CHECKING:
    from llm_server.settings import Settings

HELP = """Bring the embedded server's SQLite file to the version of this LLM-Server.

A backup is written beside the file first. A server migrates its file by itself when it starts, and so do the commands
for keys. While a server is using the file, this is refused.

Exit codes:

\b
  0  the file has this LLM-Server's version (without --check: now, if not before)
  1  --check found migrations that are pending
  2  the file cannot be used, or a server is using it; it says why and changes nothing
"""
_PENDING, _WRONG = 1, 2


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say which migrations are pending.")] = False,
    db: Annotated[Path | None, typer.Option(help="SQLite file of the server; else LLM_SERVER_DB says it.")] = None,
) -> None:
    from llm_server.orchestration.domain.errors import LLMServerError
    from llm_server.settings import Settings

    try:
        settings = Settings.read(table_alone=True)
        path = _file(replace(settings, db=db or settings.db))
        if check:
            _check(path)
        else:
            _migrate(path)
    except LLMServerError as error:
        display.say(str(error))
        raise typer.Exit(_WRONG) from None


def _file(settings: "Settings") -> Path:
    from llm_server.orchestration.domain.errors import ConfigurationError

    if settings.on_aws:
        raise ConfigurationError(
            "LLM_SERVER_TABLE is set: a table has no migrations; unset it to migrate a SQLite file."
        )
    if not settings.db.exists():
        raise ConfigurationError(f"There is no database {settings.db}; LLM_SERVER_DB or --db says where it is.")
    return settings.db


def _check(path: Path) -> None:
    from llm_server.storage.sqlite import migrations

    version, pending = migrations.check(path)
    if not pending:
        display.put(f"The database {path} is current: it has version {version}.")
        return
    display.put(f"The database {path} has version {version}. Pending:")
    for migration in pending:
        display.put(f"  {migration.version}  {migration.purpose}")
    raise typer.Exit(_PENDING)


def _migrate(path: Path) -> None:
    from llm_server.storage.sqlite import database

    migrated = database.migrate(path)
    if migrated is None:
        display.put(f"The database {path} is current: there is nothing to do.")
        return
    display.put(f"The database {path} was migrated from version {migrated.from_version} to {migrated.to_version}.")
    display.put(f"Backup: {migrated.backup}" if migrated.backup else "It was empty, so there is no backup.")
