"""The command migrate: checks the version of the SQLite file and brings it up to date."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display

if TYPE_CHECKING:
    from llm_server.settings import Settings

EXIT_CODES = """
Exit codes:

\b
  0  the file has the version of this LLM-Server
  1  --check found pending migrations
  2  the file cannot be used, or a server is using it; nothing is changed
"""
_PENDING, _WRONG = 1, 2


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only print which migrations are pending.")] = False,
    db: Annotated[
        Path | None, typer.Option(help="The server's SQLite file.  [default: LLM_SERVER_DB, or .llm-server/tasks.db]")
    ] = None,
) -> None:
    """Migrate the SQLite file of a server to the version of this LLM-Server.

    A backup is written beside the file first. A server migrates its file when it starts, and so do the commands for
    keys; use this command to do it earlier. The command fails while a server is using the file.
    """
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
            "LLM_SERVER_TABLE is set, and a DynamoDB table has no migrations; unset it to migrate a SQLite file."
        )
    if not settings.db.exists():
        raise ConfigurationError(
            f"The database {settings.db} does not exist; name the file with --db or LLM_SERVER_DB."
        )
    return settings.db


def _check(path: Path) -> None:
    from llm_server.storage.sqlite import migrations

    version, pending = migrations.check(path)
    if not pending:
        display.put(f"The database {path} is up to date: it has version {version}.")
        return
    display.put(f"The database {path} has version {version}. Pending migrations:")
    for migration in pending:
        display.put(f"  {migration.version}  {migration.purpose}")
    raise typer.Exit(_PENDING)


def _migrate(path: Path) -> None:
    from llm_server.storage.sqlite import database

    migrated = database.migrate(path)
    if migrated is None:
        display.put(f"The database {path} is up to date; nothing was changed.")
        return
    display.put(f"The database {path} was migrated from version {migrated.from_version} to {migrated.to_version}.")
    display.put(f"Backup: {migrated.backup}" if migrated.backup else "The file was empty, so no backup was written.")
