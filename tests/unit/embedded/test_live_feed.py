"""Readers of the embedded server get every event once and in order, without polling the database."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llm_server.embedded.streams.hub import MAX_HELD, MAX_HELD_CHARS, Hub
from llm_server.embedded.streams.live_feed import LiveFeed
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event, EventPage
from support.scripted_engine import WAIT_S

REF = TaskRef("local", "t1")
ITEM = 3


class Stored:
    """One task's events, as the server writes and reads them. `reads` counts the reads."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.events: list[Event] = []
        self.has_ended = False
        self.reads = 0
        self.error: Exception | None = None
        self._number = 0

    @property
    def written(self) -> list[int]:
        return [event.number for event in self.events]

    def commit(self, name: str = "claimed", *, ends: bool = False) -> None:
        """Store a state, then tell the hub."""
        self.events.append(Event(name=name, number=self._next(), at_ms=0, actor="worker"))
        self.has_ended = ends
        self.hub.changed(REF)

    def write(self, text: str = "x", *, gap: int = 0) -> None:
        """Publish a piece of text."""
        self._number += gap
        delta = Delta(number=self._next(), item=ITEM, text=text, at_ms=0)
        made = Event(name="text.delta", number=delta.number, at_ms=0, actor="worker", item=ITEM, text=text)
        self.events.append(made)
        self.hub.publish(REF, delta)

    def read(self, after: int) -> EventPage:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return EventPage(events=tuple(e for e in self.events if e.number > after), ended=self.has_ended)

    def feed(self, after: int = 0) -> LiveFeed:
        return LiveFeed(self.hub, run, self.read, REF, after)

    def _next(self) -> int:
        self._number += 1
        return self._number


async def run(use_case: Callable[[], EventPage]) -> EventPage:
    """Read, and come back later than what happens meanwhile."""
    await asyncio.sleep(0)
    page = use_case()
    await asyncio.sleep(0)
    return page


async def read_to_the_end(feed: LiveFeed) -> list[int]:
    numbers = list[int]()
    page = EventPage(events=(), ended=False)
    while not page.ended:
        page = await feed.next(WAIT_S)
        numbers += [event.number for event in page.events]
    feed.close()
    return numbers


def numbers_of(page: EventPage) -> list[int]:
    return [event.number for event in page.events]


def on_a_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), WAIT_S))


@pytest.fixture
def stored() -> Stored:
    return Stored(Hub())


def test_text_comes_without_a_read_of_the_store(stored: Stored) -> None:
    async def main() -> None:
        stored.commit("attempt.started")
        feed = stored.feed()
        await feed.next(0)
        before = stored.reads
        for _ in range(100):
            stored.write()
            assert numbers_of(await feed.next(WAIT_S)) == stored.written[-1:]
        feed.close()

        assert stored.reads == before

    on_a_loop(main)


def test_a_reader_that_waits_is_told_of_a_commit_by_another_thread(stored: Stored) -> None:
    async def main() -> None:
        stored.commit()
        feed = stored.feed(after=1)
        waiting = asyncio.create_task(feed.next(WAIT_S))
        await asyncio.sleep(0.05)
        reads = stored.reads
        await asyncio.sleep(0.3)
        assert (waiting.done(), stored.reads) == (False, reads)  # it does not poll
        threading.Thread(target=stored.commit).start()
        assert numbers_of(await waiting) == [2]
        feed.close()

    on_a_loop(main)


def test_a_reader_that_comes_in_the_middle_of_a_text_misses_nothing(stored: Stored) -> None:
    async def main() -> None:
        stored.commit("attempt.started")
        stored.write("a")
        feed = stored.feed()
        first = asyncio.create_task(feed.next(0))
        await asyncio.sleep(0)
        stored.write("b")  # before the read or during it
        stored.write("c")
        told = numbers_of(await first)
        rest = asyncio.create_task(read_to_the_end(feed))
        stored.commit("completed", ends=True)

        assert told + await rest == stored.written

    on_a_loop(main)


def test_a_slow_reader_is_dropped_to_the_store(stored: Stored) -> None:
    """What is held for it is bounded, and nothing is missing."""

    async def main() -> None:
        feed = stored.feed()
        stored.commit("attempt.started")
        await feed.next(WAIT_S)
        for _ in range(5 * MAX_HELD):
            stored.write()
        held = len(feed._reader._deltas)
        assert numbers_of(await feed.next(WAIT_S)) == stored.written[1:]
        read = len(stored.written)
        stored.write("y" * MAX_HELD_CHARS * 2)
        stored.write("z")
        stored.commit("completed", ends=True)

        assert held <= MAX_HELD
        assert await read_to_the_end(feed) == stored.written[read:]

    on_a_loop(main)


@pytest.mark.parametrize("seed", range(40))
def test_every_reader_gets_every_event_once_and_in_order(stored: Stored, seed: int) -> None:
    """Readers come at any time, read at any speed, and numbers have gaps."""
    draw = random.Random(seed)

    async def main() -> None:
        readers: list[asyncio.Task[list[int]]] = []
        starts = list[int]()
        stored.commit("attempt.started")
        for _ in range(300):
            choice = draw.random()
            if choice < 0.6:
                stored.write(gap=draw.choice((0, 0, 5)))
            elif choice < 0.8:
                stored.commit("step.completed")
            elif choice < 0.85:
                starts.append(draw.choice(stored.written))
                readers.append(asyncio.create_task(read_to_the_end(stored.feed(starts[-1]))))
            else:
                await asyncio.sleep(0)
        stored.commit("completed", ends=True)

        for start, reader in zip(starts, readers, strict=True):
            assert await reader == [number for number in stored.written if number > start]
        assert stored.hub.count == 0

    on_a_loop(main)


def test_a_missed_notice_costs_one_wait(stored: Stored) -> None:
    async def main() -> None:
        feed = stored.feed()
        await feed.next(0)
        stored.events.append(Event(name="claimed", number=1, at_ms=0, actor="worker"))  # the hub is not told
        assert numbers_of(await feed.next(0.05)) == [1]
        feed.close()

    on_a_loop(main)


def test_a_failed_read_is_made_up_for(stored: Stored) -> None:
    async def main() -> None:
        stored.commit()
        feed = stored.feed()
        stored.error = StorageUnavailable("The database does not answer.")
        with pytest.raises(StorageUnavailable):
            await feed.next(0)
        stored.error = None
        assert numbers_of(await feed.next(WAIT_S)) == [1]
        feed.close()

    on_a_loop(main)


def test_a_deletion_is_told(stored: Stored) -> None:
    async def main() -> None:
        feed = stored.feed()
        await feed.next(0)
        waiting = asyncio.create_task(feed.next(WAIT_S))
        await asyncio.sleep(0)
        stored.error = TaskNotFound()
        stored.hub.changed(REF)
        with pytest.raises(TaskNotFound):
            await waiting

    on_a_loop(main)


def test_a_stopping_server_lets_all_readers_go_and_every_later_one(stored: Stored) -> None:
    async def main() -> None:
        feed = stored.feed()
        await feed.next(0)
        waiting = asyncio.create_task(feed.next(WAIT_S))
        await asyncio.sleep(0)
        threading.Thread(target=stored.hub.stop).start()
        page = await waiting
        late = stored.feed()

        assert (page.events, page.ended, feed.is_over, late.is_over) == ((), False, True, True)
        assert (await late.next(WAIT_S)).events == ()

    on_a_loop(main)


def test_readers_that_leave_are_forgotten(stored: Stored) -> None:
    async def main() -> None:
        feeds = [stored.feed() for _ in range(3)]
        for feed in feeds:
            feed.close()
            feed.close()

        assert (stored.hub.count, stored.hub._readers._listeners) == (0, {})

    on_a_loop(main)


class Timers(asyncio.SelectorEventLoop):
    """A loop that keeps its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = list[asyncio.TimerHandle]()

    def call_later(self, delay: float, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers.append(super().call_later(delay, *args, **options))
        return self.timers[-1]


def test_the_waits_for_the_pieces_of_a_text_share_a_timer(stored: Stored) -> None:
    """A timer for each piece would cost as much as its frame."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Timers)
        feed = stored.feed()
        end = loop.time() + WAIT_S
        await feed.next(0)
        for _ in range(50):
            loop.call_soon(stored.write)
            assert numbers_of(await feed.next(end - loop.time())) == stored.written[-1:]

        assert len(loop.timers) == 1
        feed.close()
        assert loop.timers[0].cancelled()

    with asyncio.Runner(loop_factory=Timers) as runner:
        runner.run(main())


@pytest.mark.parametrize(("first_s", "then_s"), [(WAIT_S, 0.1), (0.1, 0.3)])
def test_each_wait_has_its_own_time(stored: Stored, first_s: float, then_s: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        feed = stored.feed()
        await feed.next(0)
        loop.call_soon(stored.write)
        await feed.next(first_s)
        started_s = loop.time()

        assert (await feed.next(then_s)).events == ()
        assert then_s - 0.02 < loop.time() - started_s < then_s + 0.5
        feed.close()

    on_a_loop(main)
