"""The feed of a reader on the embedded server: stored events from the store, new text from the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from llm_server.api.streams.feed import NOTHING_NEW, ReadEvents
from llm_server.embedded.streams.hub import Hub, Reader
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.events import Event, EventPage, of_delta

CATCH_UP_S = 0.25
"""How often a reader that came in the middle of a text looks whether the store has the part that it missed."""

RunRead = Callable[[Callable[[], EventPage]], Awaitable[EventPage]]


class LiveFeed:
    """The `Feed` of one reader.

    New text comes from the hub before it is stored. A reader that comes in the middle of a text has missed its pieces
    that are not stored yet. It holds what the hub gives until the store has all that came before.
    """

    def __init__(self, hub: Hub, run: RunRead, read: ReadEvents, ref: TaskRef, after: int) -> None:
        self._hub = hub
        self._run = run
        self._read = read
        self._last = after
        self._held: list[Delta] = []
        self._has_gap = True
        self._reader = Reader(ref, hub)

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    async def next(self, wait_s: float) -> EventPage:
        loop = asyncio.get_running_loop()
        end, has_read = loop.time() + wait_s, False
        while not self.is_over:
            news = self._reader.take()
            if news.has_gap:
                self._held, self._has_gap = [], True
            self._held += news.deltas
            self._note_gap(self._last)
            left_s = end - loop.time()
            if news.must_read or (self._held and self._has_gap) or (left_s <= 0 and not has_read):
                page, has_read = await self._stored(), True
            else:
                page = NOTHING_NEW
            events = self._merged(page)
            if events or page.ended:
                return EventPage(events=events, ended=page.ended)
            if left_s <= 0:
                break
            await self._reader.wait(min(left_s, CATCH_UP_S) if self._held else left_s)
        return NOTHING_NEW

    def close(self) -> None:
        self._hub.leave(self._reader)
        self._reader.let_go()

    async def _stored(self) -> EventPage:
        """Read the store."""
        try:
            return await self._run(lambda: self._read(self._last))
        except BaseException:
            self._reader.must_read()
            raise

    def _note_gap(self, known: int) -> None:
        """Note whether text is missing between the event with the number `known` and what is held."""
        if self._held and self._has_gap:
            self._has_gap = self._held[0].number > known + 1

    def _merged(self, page: EventPage) -> tuple[Event, ...]:
        """Return the next events in order: those of the store, and the text that the hub gave, if nothing is missing.

        When a task has ended, the store has everything.
        """
        stored = max((event.number for event in page.events), default=self._last)
        self._note_gap(stored)
        live: Iterable[Event] = ()
        if not self._has_gap or page.ended:
            known = {event.number for event in page.events}
            live = [of_delta(d) for d in self._held if d.number > self._last and d.number not in known]
            self._held = []
        events = tuple(sorted((*page.events, *live), key=lambda event: event.number)) if live else page.events
        if events:
            self._last = events[-1].number
        return events
