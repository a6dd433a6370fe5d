"""The commands about the server itself: metrics and engines."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import typer

from llm_server.cli import display
from llm_server.cli.client import DEFAULT_URL
from llm_server.cli.connection import Answer
from llm_server.cli.options import ApiKey, JsonOrText, Url, client_of, failures_as_exit_codes

_SWITCHES: dict[str, dict[str, bool | None]] = {
    "on": {"toggle": True},
    "off": {"toggle": False},
    "lock": {"locked": True},
    "unlock": {"locked": False},
    "reset": {"toggle": None, "locked": None},
}
_COLUMNS = ("kind", "model", "source", "tier", "status", "toggle", "locked", "tools", "vision", "demonstration")
_FIGURES: dict[str, Callable[[float], str]] = {
    "tokens_per_second": lambda value: f"{value:,.1f}",
    "average_response_time": lambda value: f"{value:,.2f} s",
    "total_requests": lambda value: f"{value:,}",
    "active_tasks": lambda value: f"{value:,}",
    "queue_length": lambda value: f"{value:,}",
    "success_rate": lambda value: f"{value:.1f} %",
    "api_costs": lambda value: display.usd(round(value * 1_000_000)),
}


def metrics(url: Url = DEFAULT_URL, key: ApiKey = "", choice: JsonOrText = None) -> None:
    """Print the server's status and figures.

    A figure that has not been measured yet is a dash in text, and null in JSON.
    """
    client = client_of(url, key)
    with failures_as_exit_codes():
        _show_metrics(client.metrics(), display.wants_json(choice))


def engines(
    switch: Annotated[
        Literal["on", "off", "lock", "unlock", "reset"] | None,
        typer.Argument(metavar="SWITCH", help="on, off, lock, unlock or reset."),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The engine to switch.")] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    choice: JsonOrText = None,
) -> None:
    """List the engines, or switch one while the server runs.

    A switch takes effect in every process of the server within 5 seconds, and lasts until the next switch.

    \b
      on       use the engine, unless it is locked
      off      do not use the engine; calls in progress end normally
      lock     do not use the engine, even if it is switched on
      unlock   use the engine if it is switched on
      reset    restore the configured switches
    """
    if switch and not name:
        raise typer.BadParameter("Name the engine to switch.", param_hint="NAME")
    client = client_of(url, key)
    with failures_as_exit_codes():
        if switch and name:
            _show_engine(name, client.switch_engine(name, _SWITCHES[switch]), display.wants_json(choice))
        else:
            _show_engines(client.engines(), display.wants_json(choice))


def _show_metrics(answer: Answer, as_json: bool) -> None:
    if as_json:
        display.put_bytes(answer.body)
    else:
        display.put_table(list(_figures(answer.document)))


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each figure and its value as text."""
    yield "server_status", str(figures.get("server_status"))
    for engine, status in (figures.get("llm_status") or {}).items():
        yield f"llm_status · {engine}", str(status)
    for name, text in _FIGURES.items():
        value = figures.get(name)
        yield name, "-" if value is None else text(value)


def _show_engines(answer: Answer, as_json: bool) -> None:
    if as_json:
        display.put_bytes(answer.body)
        return
    rows = [("name", *_COLUMNS)]
    for name, engine in answer.document["engines"].items():
        rows.append((name, *(display.word(engine.get(column)) for column in _COLUMNS)))
    display.put_table(rows)
    for name, engine in answer.document["engines"].items():
        if note := engine.get("note"):
            display.say(f"{name}: {note}")


def _show_engine(name: str, answer: Answer, as_json: bool) -> None:
    """Print the status and the switches of an engine after it was switched."""
    if as_json:
        display.put_bytes(answer.body)
        return
    switches = ", ".join(f"{switch} {display.word(answer.document.get(switch))}" for switch in ("toggle", "locked"))
    display.put(f"{name} is {answer.status} ({switches}).")
