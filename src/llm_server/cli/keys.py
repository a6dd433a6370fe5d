"""The command line's part for API keys. It works on the store itself, so that a first key can be made."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display

if TYPE_CHECKING:
    from llm_server.orchestration.access.keyring import Keyring
    from llm_server.orchestration.domain.api_key import Key

_WRONG, _AWAY = 2, 3

app = typer.Typer(
    help="API keys, where the tasks are kept: the SQLite file (a server may be running), or LLM_SERVER_TABLE on AWS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Db = Annotated[Path | None, typer.Option(help="SQLite file of the server; else LLM_SERVER_DB says it.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose tasks: a to z, 0 to 9 and -.")],
    scope: Annotated[str, typer.Option(help="Comma-separated: tasks, metrics, admin.")] = "tasks",
    name: Annotated[str, typer.Option(help="What it is for; shown in the list.")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N")] = None,
    tasks_in_flight: Annotated[int | None, typer.Option(metavar="N")] = None,
    usd_per_day: Annotated[float | None, typer.Option(metavar="X", help="A UTC day's calls.")] = None,
    db: Db = None,
) -> None:
    """Make a key and print it: now, and never again."""
    with _opened(db, make=True) as keys:
        from llm_server.orchestration.domain.api_key import KeyLimits

        limits = KeyLimits.of(
            requests_per_minute=requests_per_minute, tasks_in_flight=tasks_in_flight, usd_per_day=usd_per_day
        )
        key, token = keys.create(tenant, [s.strip() for s in scope.split(",") if s.strip()], limits=limits, name=name)
        display.put(token)
        display.say(f"Key {key.key_id} for {key.tenant} ({', '.join(key.scopes)}); it is not shown again.", dim=True)
        display.say("Send it as Authorization: Bearer ..., or set LLM_SERVER_API_KEY for the commands.", dim=True)


@app.command(name="list")
def list_keys(db: Db = None) -> None:
    """Print every key, the revoked ones too; never a secret."""
    with _opened(db) as keys:
        for key in keys.all():
            display.put(_line(key))


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `keys list` prints it.")], db: Db = None) -> None:
    """Refuse a key from now on; a server that runs takes it for 60 s at most."""
    with _opened(db) as keys:
        keys.revoke(key_id)
        display.say(f"Key {key_id} is revoked.")


def _line(key: "Key") -> str:
    from llm_server.orchestration.domain.receipt import usd

    limits = key.limits
    said = [
        f"{limits.requests_per_minute} requests a minute" if limits.requests_per_minute is not None else "",
        f"{limits.tasks_in_flight} tasks in flight" if limits.tasks_in_flight is not None else "",
        f"{usd(limits.microusd_per_day)} USD a day" if limits.microusd_per_day is not None else "",
        f"revoked {_day(key.revoked_ms)}" if key.revoked_ms is not None else "",
        key.name,
    ]
    words = [f"{key.key_id}  {key.tenant:<20} {','.join(key.scopes):<19} {_day(key.created_ms)}", *filter(None, said)]
    return "  ".join(words)


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d")


@contextmanager
def _opened(db: Path | None, *, make: bool = False) -> "Iterator[Keyring]":
    from llm_server import wiring
    from llm_server.orchestration.domain.errors import LLMServerError, StorageMisconfigured, StorageUnavailable
    from llm_server.settings import Settings

    _log_to_stderr()  # opening an older file migrates it, and says so
    try:
        settings = Settings.read(table_alone=True)
        with wiring.keys_of(replace(settings, db=db or settings.db), make=make) as keys:
            yield keys
    except LLMServerError as error:
        display.say(error.cause if isinstance(error, StorageMisconfigured) else str(error))
        raise typer.Exit(_AWAY if isinstance(error, StorageUnavailable) else _WRONG) from None


def _log_to_stderr() -> None:
    from llm_server.embedded.logs import TextFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level="WARNING", handlers=[handler])
