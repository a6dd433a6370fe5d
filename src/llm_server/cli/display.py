"""Prints a command's result to stdout and everything else to stderr, as text or as JSON.

rich is imported only by the functions that use it, so that a command with piped output does not wait for the import.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]"
)  # characters that control a terminal or cannot be encoded


def wants_json(choice: bool | None) -> bool:
    """Return whether to print JSON: the choice of `--json` or `--text`, else whether stdout is not a terminal."""
    return not sys.stdout.isatty() if choice is None else choice


def put(text: str) -> None:
    """Print one line of a command's result to stdout."""
    put_bytes(safe(text).encode(errors="replace"))


def put_bytes(body: bytes) -> None:
    """Print bytes to stdout unchanged, then a line feed; the locale does not change their encoding."""
    typer.echo(body)


def put_json(document: object) -> None:
    """Print a JSON document to stdout."""
    put_bytes(json.dumps(document, ensure_ascii=False).encode(errors="replace"))


def put_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as aligned columns, one line a row; long cells are not cut or folded, so that they can be copied."""
    cells = [[" ".join(safe(cell).split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        put("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(sentence: str, *, dim: bool = False) -> None:
    """Print one line to stderr."""
    typer.secho(safe(sentence), err=True, dim=dim or None)


def safe(text: str) -> str:
    """Remove characters that control the user's terminal, because an engine's text cannot be trusted."""
    return _UNSAFE.sub("", text)


def usd(microusd: float) -> str:
    """Return an amount in dollars, exact to the micro-dollar, without trailing zeros."""
    return "$" + f"{microusd / 1_000_000:,.6f}".rstrip("0").rstrip(".")


def word(value: object) -> str:
    """Return a value as the server's JSON document has it, such as `true`; an empty or missing value is a dash."""
    if value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def show_decision(decision: Mapping[str, object], as_json: bool) -> None:
    """Print how a task would be carried out, one field a line; each item of a list has its own line."""
    if as_json:
        put_json(decision)
        return
    rows: list[tuple[str, str]] = []
    for name, value in decision.items():
        if name == "quote" and isinstance(value, Mapping):
            first, *others = quote_lines(value)
        else:
            first, *others = [_item(each) for each in value] or ["-"] if isinstance(value, list) else [_item(value)]
        rows += [(name, first), *(("", other) for other in others)]
    put_table(rows)


@contextmanager
def spinner(describe: Callable[[Mapping[str, object]], str]) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Show the elapsed time and a task's state on stderr during the block, if stderr is a terminal.

    Yields a function that takes the task's newest document; `describe` turns a document into the text to show.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task("Sending", total=None)
        yield lambda task: progress.update(line, description=safe(describe(task)))


@contextmanager
def download_bar(name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a download on stderr, if it is a terminal; yields a function that takes the bytes so far."""
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
        line = progress.add_task(safe(name), total=total_bytes)
        yield lambda done_bytes: progress.update(line, completed=done_bytes)


def _item(value: object) -> str:
    """Return one value as text; a pair or an object, such as a role and its likelihood, becomes its values."""
    if isinstance(value, Mapping) and "ceiling_microusd" in value:
        return _triage(value)
    if isinstance(value, Mapping | list):
        return " ".join(_item(each) for each in (value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, float):
        return f"{round(value, 2) + 0.0:.2f}"  # adding 0.0 turns -0.0 into 0.0
    return word(value)


def quote_lines(quote: Mapping[str, object]) -> list[str]:
    """Return what a task may cost and how long it may take: the ceiling, the worst case and what is expected."""
    ceiling, worst = quote.get("ceiling_microusd"), quote.get("worst_case_microusd")
    bound = f"at most {usd(ceiling)}" if isinstance(ceiling, int) else "no ceiling"
    lines = [f"{bound}. {word(quote.get('ceiling_reason'))}"]
    if isinstance(worst, int):
        lines.append(f"reserves {usd(worst)} if it is claimed once")
    money, seconds = quote.get("expected_microusd"), quote.get("expected_seconds")
    expected = []
    if isinstance(money, Mapping):
        expected.append(f"half cost up to {usd(money['p50'])}, 90 % up to {usd(money['p90'])}")
    if isinstance(seconds, Mapping):
        expected.append(f"half took up to {seconds['p50']:.1f} s, 90 % up to {seconds['p90']:.1f} s")
    sample = quote.get("sample")
    of_sample = f"{counted(sample if isinstance(sample, int) else 0, 'finished task')} like it"
    return [*lines, f"{of_sample}: {'; '.join(expected) or 'too few to expect anything'}"]


def _triage(triage: Mapping[str, object]) -> str:
    """Return the engine that would be asked about a task first, and the price of that."""
    expected, ceiling = triage.get("expected_microusd"), triage["ceiling_microusd"]
    if not isinstance(expected, int) or not isinstance(ceiling, int):
        return f"{word(triage.get('engine'))}, at an unknown price"
    return f"{word(triage.get('engine'))}, about {usd(expected)}, at most {usd(ceiling)}"
