"""The commands backup and restore, for the SQLite file of a server."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display
from llm_server.cli.options import Db, database_settings

if TYPE_CHECKING:
    from llm_server.settings import Settings
    from llm_server.storage.sqlite.file.backups import Backup

BACKUP_EXIT_CODES = """
Exit codes:

\b
  0  the backup is complete
  2  there is no backup; the message says why
"""
RESTORE_EXIT_CODES = """
Exit codes:

\b
  0  the database is restored
  2  nothing was changed; the message says why
"""


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; it must not exist.")], db: Db = None
) -> None:
    """Back up the SQLite file of a server, which may be running, into a new file.

    The backup has everything that the server acknowledged before the command began. FILE appears when it is complete
    and on the disk. Only its owner can read it: it holds prompts, answers and API keys' digests.
    """
    with database_settings(db) as settings:
        from llm_server import wiring
        from llm_server.storage.sqlite.file import backups

        made = backups.back_up(_file(settings), file, now_ms=wiring.now_ms())
        display.put(f"{file}: {_content(made)}.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup; it is only read.")], db: Db = None
) -> None:
    """Restore a backup as the SQLite file of a server that is not running.

    The backup is checked first. Nothing is overwritten: move the old database away before. Start the server afterwards;
    it goes on with the tasks that were open when the backup was made.
    """
    with database_settings(db) as settings:
        from llm_server.storage.sqlite.file import backups

        path = _file(settings)
        made = backups.restore(file, path)
        since = f"as of {_time(made.made_ms)}" if made.made_ms is not None else "with no digest that could be checked"
        display.put(f"{path}: {_content(made)}, {since}.")


def _file(settings: "Settings") -> Path:
    from llm_server.orchestration.domain.errors import ConfigurationError

    if settings.on_aws:
        raise ConfigurationError(
            "LLM_SERVER_TABLE is set, and AWS backs up a DynamoDB table; docs/operations.md says how to restore it. "
            "Unset it to use a SQLite file."
        )
    return settings.db


def _content(made: "Backup") -> str:
    return f"{display.counted(made.tasks, 'task')}, {made.open_tasks} of them open, in a file of version {made.version}"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z")
