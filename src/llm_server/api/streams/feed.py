"""Where a reader's events come from. A Lambda function polls the store; `embedded/streams` has the other feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llm_server.api.polling import Pauses
from llm_server.orchestration.events.history import EventPage

ReadEvents = Callable[[int], EventPage]
"""Reads the events of a task with numbers above the given one. Raises TaskNotFound or StorageUnavailable."""

NOTHING_NEW = EventPage(events=(), ended=False)


class Feed(Protocol):
    """The events of one task for one reader, in the order of their numbers. Every event is returned once."""

    @property
    def is_over(self) -> bool:
        """Whether this feed returns nothing more, because the server is stopping or the feed was closed."""
        ...

    async def next(self, wait_s: float) -> EventPage:
        """Return the next events as soon as there are any; wait for them for at most `wait_s` seconds.

        The store is read in the first call, and in each call that begins with nothing new and waits for nothing.
        Calls must not overlap.

        Raises:
            TaskNotFound: the task was deleted.
            StorageUnavailable: the database did not answer in time; calling this again goes on where it was.
        """
        ...

    def close(self) -> None:
        """Let go of the feed, also while another task is in `next`. Calling this again has no further effect."""
        ...


class PollingFeed:
    """Reads the store after 20 ms, then at growing intervals of up to 1 s."""

    def __init__(self, read: ReadEvents, after: int) -> None:
        self._read = read
        self._last = after
        self.is_over = False

    async def next(self, wait_s: float) -> EventPage:
        pauses, page = Pauses(wait_s), self._read(self._last)
        while not (page.events or page.ended or self.is_over) and await pauses.sleep():
            page = self._read(self._last)
        if page.events:
            self._last = page.events[-1].number
        return page

    def close(self) -> None:
        self.is_over = True
