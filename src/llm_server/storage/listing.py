"""How both stores list tasks: the order, page tokens, and how many tasks one call looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.ports.listing import Page, TaskFilter
from llm_server.orchestration.domain.task import Task

_AFTER_EVERY_KEY = ":"
"""Listing keys begin with a digit, and `:` follows `9` in ASCII."""


class Span(Struct, frozen=True, kw_only=True):
    """Listing keys to read: from `first` (inclusive) to `end` (exclusive)."""

    first: str
    end: str

    @property
    def is_empty(self) -> bool:
        return self.first >= self.end


class Round(Struct, frozen=True, kw_only=True):
    """The tasks that one read has found, newest first.

    Tasks that are in the index but cannot be shown are left out. `end` is the listing key of the last task that was
    looked at, where the next read continues. It is "" if no task is left.
    """

    tasks: Sequence[Task]
    end: str


class Bounds(Struct, frozen=True, kw_only=True):
    """The largest number of tasks that a store looks at in one read and in one call."""

    max_round: int
    max_call: int


def listing_key(task: Task) -> str:
    """Return the text that sorts a tenant's tasks by time of creation. A page token encodes such a text."""
    return f"{_time_text(task.created_ms)}#{task.task_id}"


def token_of(key: str) -> str:
    """Return a listing key as an opaque, URL-safe page token."""
    return key.encode().hex()


def key_of(token: str) -> str:
    """Return the listing key in a page token. Raises InvalidInput if it contains none."""
    try:
        key = bytes.fromhex(token).decode()
    except ValueError:
        key = ""
    time, separator, task_id = key.partition("#")
    if not (time.isascii() and time.isdigit() and len(time) == 15 and separator and task_id):
        raise InvalidInput("page_token", "Unknown page_token: send a next_page_token of an earlier answer, unchanged.")
    return key


def newest(read: Callable[[Span, int], Round], task_filter: TaskFilter, *, most: int, max_round: int) -> list[Task]:
    """Return the tasks that pass a filter among the `most` tasks at the end of the list, by `read` of `fill_page`."""
    bounds = Bounds(max_round=max_round, max_call=most)
    return list(fill_page(read, task_filter, size=most, token="", bounds=bounds).tasks)


def fill_page(
    read: Callable[[Span, int], Round], task_filter: TaskFilter, *, size: int, token: str, bounds: Bounds
) -> Page:
    """Fill a page from `read(span, limit)`, which looks at up to `limit` tasks at the end of the span.

    The first read looks at one task more than the page holds, so that an unfiltered page takes one read and knows
    whether it is the last. Reading stops when the page is full. The token of a full page may lead to an
    empty page.
    """
    found: list[Task] = []
    span = _span(task_filter, token)
    if not task_filter.possible_statuses:
        return Page([], "")
    limit, left = min(size + 1, bounds.max_round), bounds.max_call
    while left > 0 and not span.is_empty:
        batch = read(span, min(limit, left))
        found += [task for task in batch.tasks if task_filter.matches(task)]
        if len(found) > size:
            return Page(found[:size], token_of(listing_key(found[size - 1])))
        if not batch.end:
            return Page(found, "")
        if len(found) == size:
            return Page(found, token_of(batch.end))
        span = Span(first=span.first, end=batch.end)
        left -= limit
        limit = bounds.max_round
    return Page(found, "" if span.is_empty else token_of(span.end))


def _span(task_filter: TaskFilter, token: str) -> Span:
    ends = [_AFTER_EVERY_KEY]
    if task_filter.created_to_ms is not None:
        ends.append(_time_text(task_filter.created_to_ms))
    if token:
        ends.append(key_of(token))
    return Span(first=_time_text(task_filter.created_from_ms), end=min(ends))


def _time_text(milliseconds: int) -> str:
    return f"{max(milliseconds, 0):015d}"
