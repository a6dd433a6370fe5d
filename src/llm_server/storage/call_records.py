"""Engine calls in their stored form: the attempts of outputs, and the pending calls of a task's state (ADR 31)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import fields, replace

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.errors import RecordUnreadable
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.task import Task

_ATTEMPT_FIELDS = tuple(f.name for f in fields(Attempt))
_ATTEMPT_VALUES = attrgetter(*_ATTEMPT_FIELDS)
_RARE: dict[str, object] = {
    "failover_from": None,
    "probe": False,
    "failure": None,
    "demonstration": False,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "cache_write_1h_tokens": 0,
    "reasoning_tokens": 0,
    "usage_implausible": False,
    "first_text_ms": None,
    "number": 0,
    "end_number": 0,
    "turns_dropped": 0,
}
"""Fields of an attempt that are not stored if they have these values, as in most attempts: a write unit holds 1 KB."""
_OF_ENGINE = ("engine", "model", "source", "tier", "why", "failover_from", "probe", "demonstration")
_OF_ENGINE_VALUES = attrgetter(*_OF_ENGINE)


class StoredPending(msgspec.Struct):
    """The pending calls of a task in their stored form, which is not the form of the field `Task.pending`.

    `begun` are the numbers of their events, without the zeros in the middle; () if no call has one.
    """

    announced: tuple[Any, ...] = ()
    begun: tuple[int, ...] = ()


PENDING = msgspec.json.Decoder(StoredPending)
_ATTEMPT = partial(msgspec.convert, type=Attempt)


def stored_attempt(attempt: Attempt) -> dict[str, object]:
    """Return an attempt without the fields that have their usual values."""
    return without_rare(_ATTEMPT_FIELDS, _ATTEMPT_VALUES(attempt), _RARE)


def without_rare(names: Iterable[str], values: Iterable[object], rare: Mapping[str, object]) -> dict[str, object]:
    """Return the fields to store: all but those that have the value with which they are rare."""
    return {name: value for name, value in zip(names, values, strict=True) if name not in rare or value != rare[name]}


def stored_pending(task: Task) -> dict[str, object]:
    """Return the fields of a stored state that hold its pending calls (see `StoredPending`)."""
    stored: dict[str, object] = {"announced": [*_announced(task)]}
    if any(attempt.number for attempt in task.pending):
        stored["begun"] = [_short(attempt.number) for attempt in task.pending]
    return stored


def pending(stored: StoredPending, created_ms: int) -> tuple[Attempt, ...]:
    """Return the pending calls of a task that was created at `created_ms`. Raises RecordUnreadable."""
    found = tuple(_pending(stored.announced, created_ms))
    if not stored.begun:
        return found
    return tuple(replace(a, number=_full(n)) for a, n in zip(found, stored.begun, strict=False))


def _announced(task: Task) -> Iterator[list[object] | dict[str, object]]:
    """Yield the pending calls as arrays: purpose, time since the task was created, worst case, and the engine's values.

    The worst case is null if the price is unknown. The engine's values (`_OF_ENGINE`) are left out if they are those of
    the call before, as for parallel steps of a plan. A call whose outcome is known is stored as an attempt.
    """
    before = None
    for attempt in task.pending:
        if not attempt.is_lost:
            yield stored_attempt(attempt)
            continue
        worst_case = None if attempt.cost_microusd is None else attempt.withheld_microusd
        row = [attempt.purpose, attempt.started_ms - task.created_ms, worst_case]
        of_engine = list(_OF_ENGINE_VALUES(attempt))
        while of_engine[-1] in (None, False):  # the defaults of the last ones
            of_engine.pop()
        yield row if of_engine == before else row + of_engine
        before = of_engine


def _short(number: int) -> int:
    """Return the number of an event that began a call in its stored form, which is short."""
    rev, place = divmod(number, event_numbers.BLOCK)
    return rev * event_numbers.TEXT + place


def _full(short: int) -> int:
    """Return the number of an event from its stored form."""
    rev, place = divmod(short, event_numbers.TEXT)
    return event_numbers.number(rev, place)


def _pending(stored: tuple[Any, ...], created_ms: int) -> Iterator[Attempt]:
    """Yield the pending calls from their stored form."""
    of_engine: list[Any] = []
    try:
        for row in stored:
            if isinstance(row, dict):
                yield _ATTEMPT(row)
                continue
            purpose, after_ms, worst_case, *values = row
            of_engine = values or of_engine
            values = dict(zip(_OF_ENGINE, of_engine, strict=False))
            started = {"purpose": purpose, "started_ms": created_ms + after_ms, "duration_ms": 0}
            yield _ATTEMPT(started | values).lost(worst_case)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise RecordUnreadable from error


def with_facts(attempt: Attempt) -> Attempt:
    """Set `failover_from` and `probe` from the sentence `why` if both are unset: version 0.1.0 stored only `why`.

    The sentence was "failover from gpt" or "failover from gpt, probe", for example. The task's history is made from the
    two fields, so without them an update of the server would remove events from it.
    """
    reason = attempt.why.removesuffix(", probe")
    failed = reason.removeprefix("failover from ")
    if attempt.failover_from is not None or attempt.probe or failed == attempt.why:
        return attempt
    return replace(attempt, failover_from=failed if failed != reason else None, probe=reason != attempt.why)
