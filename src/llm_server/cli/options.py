"""Shared parts of the commands: options, exit codes, the prompt's text, and the end of a command after a failure."""

import logging
import re
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_server.cli import display
from llm_server.cli.client import Client
from llm_server.cli.connection import ClientError, ServerRefused

if TYPE_CHECKING:
    from llm_server.settings import Settings

REFUSED, FAILED, NOT_FINAL, INTERRUPTED = 2, 3, 4, 130

CALL_EXIT_CODES = """
Exit codes:

\b
  0    success
  2    wrong usage, or the server refused the request; the message says why
  3    the server cannot be reached, or it failed
"""
DECISION_EXIT_CODES = f"{CALL_EXIT_CODES}  4    you declined; the plan still waits for approval\n"
TASK_EXIT_CODES = """
Exit codes:

\b
  0    success
  1    the task Failed or was Cancelled
  2    wrong usage, or the server refused the request; the message says why
  3    the server cannot be reached, or it failed
  4    the task is not final yet, or its plan waits for approval
  130  interrupted with Ctrl-C; the task continues on the server
"""

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(rf"{_DATE.pattern}T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)

Url = Annotated[str, typer.Option("--url", envvar="LLM_SERVER_URL", help="Address of the server.")]
ApiKey = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="LLM_SERVER_API_KEY",
        help="API key. Better set the variable: other users of this machine can read the options of a command.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's JSON document.")]
JsonOrText = Annotated[
    bool | None,
    typer.Option("--json/--text", help="Print JSON or text.  [default: text on a terminal, JSON in a pipe or a file]"),
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id; submit and list print it.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="The text of the task, or - to read standard input.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="The longest time to wait.")]
Metadata = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label of the task; may be given several times.")
]


Source = Annotated[
    list[str] | None,
    typer.Option(
        help="Only call engines with this source: local or api; may be given several times or comma-separated."
    ),
]


Db = Annotated[
    Path | None, typer.Option(help="The server's SQLite file.  [default: LLM_SERVER_DB, or .llm-server/tasks.db]")
]


def client_of(url: str, key: str) -> Client:
    """Return a client. Raises BadParameter (wrong usage) if the address or the key is not valid."""
    if not key.isascii() or not key.isprintable():
        raise typer.BadParameter("An API key has only printable ASCII characters.", param_hint="--key")
    try:
        return Client(url, key=key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def checked_id(task_id: str) -> str:
    """Return the id. Raises BadParameter (wrong usage) if it is empty."""
    if not task_id.strip():
        raise typer.BadParameter("The task's id is empty.", param_hint="ID")
    return task_id


_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


def text_of(prompt: str) -> str:
    """Return the prompt; for `-`, read it from standard input. Raises BadParameter if the text is not UTF-8."""
    try:
        text = sys.stdin.buffer.read().decode() if prompt == "-" else prompt
        text.encode()  # an argument's undecodable bytes arrive as lone surrogates
    except UnicodeError:
        raise typer.BadParameter("The prompt is not UTF-8 text.", param_hint="PROMPT") from None
    return text


def attachments_of(images: Iterable[Path] | None) -> list[dict[str, str]] | None:
    """Return images as the API takes them; None without any. Raises BadParameter for a file that is not an image."""
    if not images:
        return None
    found = []
    for path in images:
        media_type = _IMAGE_TYPES.get(path.suffix.lower())
        if media_type is None:
            accepted = ", ".join(_IMAGE_TYPES)
            raise typer.BadParameter(f"{path.name} does not end in one of {accepted}.", param_hint="--image")
        data = b64encode(path.read_bytes()).decode()
        found.append({"type": "image", "url": f"data:{media_type};base64,{data}"})
    return found


def words_of(option: Iterable[str] | None) -> list[str] | None:
    """Return the words of an option that may be given several times or comma-separated; None if it was not given."""
    if option is None:
        return None
    return [word.strip() for word in ",".join(option).split(",") if word.strip()]


def pairs_of(metadata: Iterable[str] | None) -> dict[str, str]:
    """Split each KEY=VALUE at its first `=`. Raises BadParameter if a label has no `=` or no key."""
    pairs = {}
    for label in metadata or ():
        key, separator, value = label.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{label!r} does not have the form KEY=VALUE.", param_hint="--metadata")
        pairs[key] = value
    return pairs


def time_of(text: str | None, option: str) -> str | None:
    """Return the RFC 3339 time that the value of an option means; a date alone means its midnight in UTC.

    None, an option that is not set, stays None. Raises BadParameter if the value is neither a date nor such a time.
    """
    if text is None:
        return None
    time = f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text.upper()
    try:
        if not _TIME.fullmatch(time):
            raise ValueError(text)
        datetime.fromisoformat(time)
    except ValueError:
        message = (
            f"{text!r} is not a time. Give a date (midnight UTC), such as 2026-11-29, "
            "or a time with an offset, such as 2026-11-29T08:00:00Z."
        )
        raise typer.BadParameter(message, param_hint=option) from None
    return time


def without_unset(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that the user did not set, so that the server's defaults apply."""
    return {name: value for name, value in fields.items() if value not in (None, {})}


@contextmanager
def failures_as_exit_codes() -> Iterator[None]:
    """Print the message and the notes of a failed call, and end the command with the exit code for the failure."""
    try:
        yield
    except ClientError as error:
        for line in (str(error), *getattr(error, "__notes__", ())):
            display.say(line)
        raise typer.Exit(REFUSED if isinstance(error, ServerRefused) else FAILED) from None


@contextmanager
def database_settings(db: Path | None) -> "Iterator[Settings]":
    """Yield the settings for a command that opens the database itself; `db` takes precedence over LLM_SERVER_DB.

    A failure in the block ends the command with its message: exit code 3 if the storage cannot be reached, otherwise 2.
    """
    from llm_server.embedded.logs import TextFormatter
    from llm_server.orchestration.domain.errors import (
        LLMServerError,
        StorageBroken,
        StorageMisconfigured,
        StorageUnavailable,
    )
    from llm_server.settings import Settings

    handler = logging.StreamHandler()  # opening an older file migrates it and logs that
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level="WARNING", handlers=[handler])
    try:
        settings = Settings.read(table_alone=True)
        yield replace(settings, db=db or settings.db)
    except LLMServerError as error:
        display.say(error.cause if isinstance(error, (StorageMisconfigured, StorageBroken)) else str(error))
        raise typer.Exit(FAILED if isinstance(error, StorageUnavailable) else REFUSED) from None
