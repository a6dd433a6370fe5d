"""The `keys` commands. They open the database directly, so that the first key can be made without a key."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_server.cli import display
from llm_server.cli.options import Db, Source, database_settings, time_of, words_of

if TYPE_CHECKING:
    from llm_server.orchestration.access.keyring import Keyring
    from llm_server.orchestration.domain.api_key import Key, KeyChanges, LimitChanges

_WRONG = 2
_DAY_MS = 24 * 3600 * 1000
_NOTHING = (
    "Nothing to change: give --name, --requests-per-minute, --tasks-in-flight, --usd-per-day, --source, "
    "--expires-at or --expires-in-days; or remove a value with --no-requests-per-minute, --no-tasks-in-flight, "
    "--no-usd-per-day, --no-source or --never-expires."
)
_COLUMNS = (
    "key_id",
    "tenant",
    "scopes",
    "state",
    "created",
    "expires",
    "requests/minute",
    "tasks in flight",
    "USD/day",
    "sources",
    "name",
)

app = typer.Typer(
    help="Make and manage API keys in the server's database: the SQLite file (a server may be running), or the "
    "DynamoDB table that LLM_SERVER_TABLE names.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyId = Annotated[str, typer.Argument(help="The key's id, as `keys list` prints it.")]
Name = Annotated[str, typer.Option(help="A name for people, shown in the list.")]
Requests = Annotated[int | None, typer.Option(metavar="N", help="Limit the requests in a minute.")]
InFlight = Annotated[int | None, typer.Option(metavar="N", help="Limit the tasks that are not final.")]
Usd = Annotated[float | None, typer.Option(metavar="X", help="Limit the cost of engine calls on a UTC day.")]
ExpiresAt = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="When the key expires, such as 2030-12-31T23:59:59Z, or a date (midnight UTC)."),
]
ExpiresIn = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=36_500, help="Let the key expire N days from now.")
]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant whose tasks the key can use: a to z, 0 to 9 and -.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="A scope: tasks, metrics or admin; may be given several times or comma-separated.  [default: tasks]"
        ),
    ] = None,
    name: Name = "",
    requests_per_minute: Requests = None,
    tasks_in_flight: InFlight = None,
    usd_per_day: Usd = None,
    source: Source = None,
    expires_at: ExpiresAt = None,
    expires_in_days: ExpiresIn = None,
    db: Db = None,
) -> None:
    """Make a key and print its token. The token is not stored, so it cannot be printed again."""
    with _opened(db, make=True) as keys:
        from llm_server.orchestration.domain.api_key import KeyLimits

        limits = KeyLimits.of(
            requests_per_minute=requests_per_minute,
            tasks_in_flight=tasks_in_flight,
            usd_per_day=usd_per_day,
            sources=words_of(source),
        )
        scopes = words_of(scope or ["tasks"]) or []
        expires_ms = _expires_ms(expires_at, expires_in_days)
        key, token = keys.create(tenant, scopes, limits=limits, name=name, expires_ms=expires_ms)
        _show_token(key, token)


@app.command(name="list")
def list_keys(
    as_json: Annotated[
        bool | None,
        typer.Option("--json/--text", help="Print JSON or columns. Default: columns on a terminal, else JSON."),
    ] = None,
    db: Db = None,
) -> None:
    """Print all keys, also revoked and expired ones. Secrets are not stored and not printed."""
    with _opened(db) as keyring:
        keys = keyring.all()
        if not keys:
            display.say("There are no keys yet; make one with: llm-server keys create --tenant NAME")
        if display.wants_json(as_json):
            display.put_json(_document(keys))
        elif keys:
            display.put_table([_COLUMNS, *(_row(key) for key in keys)])


@app.command()
def update(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="A name for people, shown in the list.")] = None,
    requests_per_minute: Requests = None,
    no_requests_per_minute: Annotated[bool, typer.Option("--no-requests-per-minute", help="Remove the limit.")] = False,
    tasks_in_flight: InFlight = None,
    no_tasks_in_flight: Annotated[bool, typer.Option("--no-tasks-in-flight", help="Remove the limit.")] = False,
    usd_per_day: Usd = None,
    no_usd_per_day: Annotated[bool, typer.Option("--no-usd-per-day", help="Remove the limit.")] = False,
    source: Source = None,
    no_source: Annotated[bool, typer.Option("--no-source", help="Remove the limit.")] = False,
    expires_at: ExpiresAt = None,
    expires_in_days: ExpiresIn = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Remove the expiry.")] = False,
    db: Db = None,
) -> None:
    """Change a key's limits, name or expiry. Other values do not change. A running server follows within 60 s."""
    limits = _limit_changes(
        requests_per_minute=(requests_per_minute, no_requests_per_minute),
        tasks_in_flight=(tasks_in_flight, no_tasks_in_flight),
        usd_per_day=(usd_per_day, no_usd_per_day),
        sources=(words_of(source), no_source),
    )
    with _opened(db) as keys:
        changes: KeyChanges = {"limits": limits} if limits else {}
        if name is not None:
            changes["name"] = name
        expires_ms = _expires_ms(expires_at, expires_in_days)
        if expires_ms is not None and never_expires:
            raise typer.BadParameter("Give --never-expires or a time of expiry, not both.")
        if expires_ms is not None or never_expires:
            changes["expires_ms"] = expires_ms
        if not changes:
            display.say(_NOTHING)
            raise typer.Exit(_WRONG)
        keys.update(key_id, changes)
        display.say(f"Key {key_id} was changed.")


@app.command()
def rotate(key_id: KeyId, db: Db = None) -> None:
    """Give a key a new secret and print its new token. A running server may accept the old one for up to 60 s."""
    with _opened(db) as keys:
        _show_token(*keys.rotate(key_id))


@app.command()
def revoke(key_id: KeyId, db: Db = None) -> None:
    """Revoke a key for ever. A running server may still accept it for up to 60 s."""
    with _opened(db) as keys:
        keys.revoke(key_id)
        display.say(f"Key {key_id} is revoked.")


def _limit_changes(**options: tuple[float | list[str] | None, bool]) -> "LimitChanges":
    """Return the limits to change; each option has a new value, and whether to remove the limit."""
    changes: Any = {}
    for name, (value, removed) in options.items():
        if value is not None and removed:
            option = name.replace("_", "-").replace("sources", "source")
            raise typer.BadParameter(f"Give --{option} or --no-{option}, not both.")
        if value is not None or removed:
            changes[name] = value
    limits: LimitChanges = changes
    return limits


def _expires_ms(expires_at: str | None, in_days: int | None) -> int | None:
    from llm_server import wiring
    from llm_server.orchestration.access.expiry import parse_expires_at

    if expires_at is not None and in_days is not None:
        raise typer.BadParameter("Give --expires-at or --expires-in-days, not both.")
    if in_days is not None:
        return wiring.now_ms() + in_days * _DAY_MS
    time = time_of(expires_at, "--expires-at")
    return None if time is None else parse_expires_at(time)


def _show_token(key: "Key", token: str) -> None:
    display.put(token)
    display.say(f"Key {key.key_id} for {key.tenant} ({', '.join(key.scopes)}); the token is not shown again.", dim=True)
    display.say("Send it as Authorization: Bearer ..., or set LLM_SERVER_API_KEY for the commands.", dim=True)


def _document(keys: "Sequence[Key]") -> object:
    """Return the document that `GET /api/v1/keys` answers."""
    from llm_server.api import views
    from llm_server.api.schemas.keys import KeyList

    return KeyList(keys=[views.key(key) for key in keys]).model_dump(mode="json")


def _row(key: "Key") -> list[str]:
    from llm_server import wiring
    from llm_server.orchestration.domain.receipt import usd

    limits = key.limits
    state = "expired" if key.is_expired(wiring.now_ms()) else "valid"
    cells: Mapping[str, object] = {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "scopes": ",".join(key.scopes),
        "state": state if key.revoked_ms is None else f"revoked {_time(key.revoked_ms)}",
        "created": _time(key.created_ms),
        "expires": None if key.expires_ms is None else _time(key.expires_ms),
        "requests/minute": limits.requests_per_minute,
        "tasks in flight": limits.tasks_in_flight,
        "USD/day": None if limits.microusd_per_day is None else usd(limits.microusd_per_day),
        "sources": ",".join(limits.sources or ()),
        "name": key.name,
    }
    return [display.word(cells[column]) for column in _COLUMNS]


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z")


@contextmanager
def _opened(db: Path | None, *, make: bool = False) -> "Iterator[Keyring]":
    from llm_server import substrates

    with database_settings(db) as settings, substrates.keys_of(settings, make=make) as keys:
        yield keys
