"""A burst of requests begins over several passes of the event loop, in order, and none is left waiting."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from starlette.types import Message, Receive, Scope, Send

from llm_server.embedded.passes import MAX_STARTS, Passes

HEALTH = "/api/v1/health"


class Loop:
    """An app that records in which pass of the event loop each request began, and passes that can be counted."""

    def __init__(self) -> None:
        self.passes = Passes(self._app, first=frozenset({HEALTH}))
        self.begun = dict[str, int]()
        self._now = 0

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun[scope["path"]] = self._now

    def call(self, path: str, kind: str = "http") -> asyncio.Task[None]:
        async def receive() -> Message:
            raise NotImplementedError

        async def send(message: Message) -> None:
            raise NotImplementedError

        async def called() -> None:
            await self.passes({"type": kind, "path": path}, receive, send)

        return asyncio.get_running_loop().create_task(called())

    async def run(self, count: int) -> None:
        """Let the event loop make passes; requests made before this begin in pass 1."""
        for _ in range(count):
            self._now += 1
            await asyncio.sleep(0)


async def _burst(loop: Loop, count: int) -> list[asyncio.Task[None]]:
    return [loop.call(f"/{n}") for n in range(count)]


def test_few_of_a_burst_begin_in_one_pass_in_their_order() -> None:
    loop = Loop()

    async def scene() -> None:
        await _burst(loop, 100)
        await loop.run(40)

    asyncio.run(scene())

    assert list(loop.begun) == [f"/{n}" for n in range(100)]
    assert max(Counter(loop.begun.values()).values()) == MAX_STARTS
    assert loop.begun["/99"] - loop.begun["/0"] <= 100 // MAX_STARTS + 1


def test_later_requests_begin_after_those_that_wait() -> None:
    loop = Loop()

    async def scene() -> None:
        await _burst(loop, 30)
        await loop.run(2)
        loop.call("/late")
        await loop.run(20)

    asyncio.run(scene())

    assert list(loop.begun) == [*(f"/{n}" for n in range(30)), "/late"]


@pytest.mark.parametrize(("path", "kind"), [(HEALTH, "http"), ("/other", "websocket")])
def test_health_begins_at_once(path: str, kind: str) -> None:
    """So does anything other than an HTTP request."""
    loop = Loop()

    async def scene() -> None:
        await _burst(loop, 100)
        await loop.run(2)
        loop.call(path, kind)
        await loop.run(40)

    asyncio.run(scene())

    assert loop.begun[path] == 3
    assert len(loop.begun) == 101


def test_requests_one_by_one_are_not_delayed() -> None:
    loop = Loop()

    async def scene() -> None:
        for n in range(3 * MAX_STARTS):
            loop.call(f"/{n}")
            await loop.run(1)

    asyncio.run(scene())

    assert list(loop.begun.values()) == list(range(1, 3 * MAX_STARTS + 1))


def test_requests_that_are_cancelled_while_they_wait_harm_no_other() -> None:
    """Their clients went away."""
    loop = Loop()

    async def scene() -> None:
        tasks = await _burst(loop, 100)
        await loop.run(1)
        for n in range(MAX_STARTS, 60):
            tasks[n].cancel()
        await loop.run(40)

    asyncio.run(scene())

    assert list(loop.begun) == [f"/{n}" for n in range(100) if not MAX_STARTS <= n < 60]
    assert not loop.passes._waiting


def test_a_burst_after_a_burst_begins_as_the_first_one() -> None:
    loop = Loop()

    async def scene() -> None:
        await _burst(loop, 20)
        await loop.run(20)
        loop.begun.clear()
        await _burst(loop, 20)
        await loop.run(20)

    asyncio.run(scene())

    assert [list(loop.begun.values()).count(n) for n in sorted({*loop.begun.values()})] == [8, 8, 4]
