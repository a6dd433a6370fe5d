"""The feed of a reader on the embedded server: it reads the store after a commit, and gets new text from the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from llm_server.api.streams.feed import NOTHING_NEW, ReadEvents
from llm_server.embedded.streams.hub import Hub, Reader
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event, EventPage, of_delta

RunRead = Callable[[Callable[[], EventPage]], Awaitable[EventPage]]


class LiveFeed:
    """The `Feed` of one reader.

    A read returns all that was committed or published before it, text that is not stored yet included. What follows it
    is told by the hub, which this feed has joined before its first read. The hub tells of a commit before it gives text
    that was written after it, and then the store is read first. So events are returned in the order of their numbers.
    """

    def __init__(self, hub: Hub, run: RunRead, read: ReadEvents, ref: TaskRef, after: int) -> None:
        self._hub = hub
        self._run = run
        self._read = read
        self._last = after
        self._held: list[Delta] = []
        self._reader = Reader(ref, hub)

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    async def next(self, wait_s: float) -> EventPage:
        loop = asyncio.get_running_loop()
        end, has_read = loop.time() + wait_s, False
        while not self.is_over:
            news, left_s, page = self._reader.take(), end - loop.time(), NOTHING_NEW
            self._held += news.deltas
            if news.must_read or (left_s <= 0 and not has_read):
                page, has_read = await self._stored(), True
            events = self._merged(page)
            if events or page.ended:
                return EventPage(events=events, ended=page.ended)
            if left_s <= 0:
                break
            await self._reader.wait(left_s)
        return NOTHING_NEW

    def close(self) -> None:
        self._hub.leave(self._reader)
        self._reader.let_go()
        self._reader.stop_timer()

    async def _stored(self) -> EventPage:
        """Read the store. If that fails, the next call reads it again."""
        try:
            return await self._run(lambda: self._read(self._last))
        except BaseException:
            self._reader.must_read()
            raise

    def _merged(self, page: EventPage) -> tuple[Event, ...]:
        """Return the events of a page and the text that is held, each once and in order."""
        events = page.events
        if self._held:
            known = {event.number for event in events}
            live = [of_delta(d) for d in self._held if d.number > self._last and d.number not in known]
            events = tuple(sorted((*events, *live), key=lambda event: event.number))
            self._held = []
        if events:
            self._last = events[-1].number
        return events
