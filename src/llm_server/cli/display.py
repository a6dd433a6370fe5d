"""What the command line shows: the answer, alone, on stdout; everything said about it on stderr.

rich is imported where it draws: a piped answer never waits for it.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from llm_server.cli.client import DEFAULT_URL, FINAL, Answer

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # steers a terminal, or has no encoding

_SWITCHES = ("toggle", "locked")
_ENGINE = ("kind", "model", "source", "tier", "status", *_SWITCHES)
_FIGURES: dict[str, Callable[[float], str]] = {
    "tokens_per_second": lambda value: f"{value:,.1f}",
    "average_response_time": lambda value: f"{value:,.2f} s",
    "total_requests": lambda value: f"{value:,}",
    "active_tasks": lambda value: f"{value:,}",
    "queue_length": lambda value: f"{value:,}",
    "success_rate": lambda value: f"{value:.1f} %",
    "api_costs": lambda value: _usd(value),
}


def put(text: str) -> None:
    """Print one line to stdout, as a result."""
    _print(_safe(text).encode(errors="replace"))


def say(sentence: str, *, dim: bool = False) -> None:
    """Print one line to stderr."""
    typer.secho(_safe(sentence), err=True, dim=dim or None)


def how_to_get(task_id: str, base_url: str) -> str:
    """Say how a task that goes on is fetched later; without an id, where it is listed."""
    if not task_id:
        return f"The task goes on if the server has taken it: {base_url}/api/v1/tasks lists it."
    where = "" if base_url == DEFAULT_URL else f" --url {shlex.quote(base_url)}"
    return f"Task {task_id} goes on; fetch it with: llm-server get {shlex.quote(task_id)} --wait{where}"


@contextmanager
def spinner() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show elapsed time and a task's state on stderr while inside, when it is a terminal.

    Yields the function that takes the task's newest document.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task("Sending", total=None)
        yield lambda task: progress.update(line, description=_state(task))


@contextmanager
def download_bar(name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr how much of a file is there, when it is a terminal; yields the function that takes the bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        line = progress.add_task(_safe(name), total=total_bytes)
        yield lambda done_bytes: progress.update(line, completed=done_bytes)


def show_task(answer: Answer, base_url: str, as_json: bool) -> None:
    """Print the result, or say why there is none."""
    task, status = answer.document, answer.status
    if as_json:
        _print(answer.body)
    elif status == "Completed":
        _show_result(str(task.get("result") or ""))
        say(_footer(task), dim=True)
    if status not in FINAL:
        say(f"Task {answer.task_id} is not final ({status}).")
        say(how_to_get(answer.task_id, base_url))
    elif status != "Completed":
        say(f"Task {answer.task_id} {status.lower()}: {task.get('error') or 'no reason given.'}")


def show_accepted(answer: Answer, base_url: str, as_json: bool) -> None:
    """Print the new task's id, alone, for a script to keep."""
    _print(answer.body if as_json else answer.task_id.encode())
    say(how_to_get(answer.task_id, base_url))


def show_change(answer: Answer, as_json: bool) -> None:
    """Say what a task has become."""
    if as_json:
        _print(answer.body)
    say(f"Task {answer.task_id} is {answer.status}.")


def show_decision(answer: Answer, as_json: bool) -> None:
    """Print how a task would be carried out, one line a field."""
    if as_json:
        _print(answer.body)
        return
    for name, value in answer.document.items():
        values = value if isinstance(value, list) else [value]
        shown = "; ".join("-" if one is None else str(one) for one in values)
        _print(_safe(f"{name:<12} {shown}").encode())


def show_metrics(answer: Answer, as_json: bool) -> None:
    """Print the nine figures as a table; what was never measured is a dash."""
    if as_json:
        _print(answer.body)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in _figures(answer.document):
        table.add_row(Text(_safe(name)), Text(_safe(value)))
    Console().print(table)


def show_engines(answer: Answer, as_json: bool) -> None:
    """Print the engines as columns, one a line however long: a name that is folded could not be copied."""
    if as_json:
        _print(answer.body)
        return
    rows = [["name", *_ENGINE]]
    for name, engine in answer.document["engines"].items():
        rows.append([_safe(cell) for cell in (name, *(_word(engine.get(column)) for column in _ENGINE))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        put("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_engine(name: str, answer: Answer, as_json: bool) -> None:
    """Print what became of an engine that was switched."""
    if as_json:
        _print(answer.body)
        return
    switches = ", ".join(f"{switch} {_word(answer.document.get(switch))}" for switch in _SWITCHES)
    put(f"{name} is {answer.status} ({switches}).")


def _word(value: object) -> str:
    """A value of an engine in the words of the contract; what it lacks is a dash."""
    return str(value).lower() if isinstance(value, bool) else str(value or "-")


def _figures(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "server_status", str(figures.get("server_status"))
    for engine, status in (figures.get("llm_status") or {}).items():
        yield f"llm_status · {engine}", str(status)
    for name, shown in _FIGURES.items():
        value = figures.get(name)
        yield name, "-" if value is None else shown(value)


def _show_result(result: str) -> None:
    if not sys.stdout.isatty():
        _print(result.encode(errors="replace"))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(_safe(result)))


def _state(task: Mapping[str, Any]) -> str:
    steps = (task.get("plan") or {}).get("steps") or []
    done = sum(step.get("status") == "Completed" for step in steps)
    return _safe(f"{task.get('status')} · {done} of {len(steps)} steps" if steps else str(task.get("status")))


def _footer(task: Mapping[str, Any]) -> str:
    """Say who did it and what it took, in one line; what the document lacks is left out."""
    receipt = task.get("receipt") or {}
    calls = [call for call in task.get("attempts") or [] if not call.get("error")]
    engines = ", ".join(dict.fromkeys(str(call.get("engine")) for call in calls))
    parts = [task.get("mode"), task.get("role"), engines or task.get("engine")]
    if receipt:
        parts.append(f"{receipt.get('tokens_in') or 0:,} tokens in, {receipt.get('tokens_out') or 0:,} out")
        parts.append(f"{(receipt.get('duration_ms') or 0) / 1000:.1f} s")
        parts.append(_usd((receipt.get("cost_microusd") or 0) / 1_000_000))
        if unpriced := receipt.get("unpriced_calls"):
            parts.append(f"{unpriced} calls without a known price")
    return " · ".join(str(part) for part in parts if part)


def _usd(amount: float) -> str:
    """Write an amount to the micro-dollar, without the zeros that say nothing."""
    return "$" + f"{amount:,.6f}".rstrip("0").rstrip(".")


def _safe(text: str) -> str:
    """Leave out what could steer the reader's terminal: an engine's words are a stranger's."""
    return _UNSAFE.sub("", text)


def _print(body: bytes) -> None:
    """Print to stdout as it is, in UTF-8 whatever the locale says."""
    typer.echo(body)
