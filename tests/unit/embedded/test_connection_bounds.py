"""How long connections may wait for their client, and which one makes room for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from llm_server.embedded.connections import HALF_OPEN_S, KEEP_ALIVE_S, Connections


class Loop:
    """A loop whose time passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *arguments: object) -> None:
        self.calls.append((self.now + delay, call, arguments))

    def pass_time(self, until: float) -> None:
        while self.calls and self.calls[0][0] <= until:
            self.now, call, arguments = self.calls.pop(0)
            call(*arguments)
        self.now = until


class Client:
    """A connection that only knows what was done to it."""

    def __init__(self, state: Connections, loop: Loop) -> None:
        self.ended = ""
        state.connections.add(cast(Any, self))
        self.has_room = state.admit(self, cast(asyncio.AbstractEventLoop, loop))

    def expire(self) -> None:
        self.ended = "expired"

    def drop(self) -> None:
        self.ended = "dropped"


def test_a_request_has_30_s_from_its_first_byte() -> None:
    """Further bytes of its header section give it no more time, because only its begin is noted."""
    loop, state = Loop(), Connections(10)
    begun, silent = Client(state, loop), Client(state, loop)
    loop.pass_time(20)
    state.half_open(begun, loop.time())

    loop.pass_time(HALF_OPEN_S + 1)
    assert (silent.ended, begun.ended) == ("expired", "")
    loop.pass_time(20 + HALF_OPEN_S + 1)
    assert begun.ended == "expired"


def test_an_idle_connection_is_kept_for_75_s_after_its_last_answer() -> None:
    loop, state = Loop(), Connections(10)
    client = Client(state, loop)
    state.busy(client)
    loop.pass_time(100)
    state.idle(client, loop.time())

    loop.pass_time(100 + KEEP_ALIVE_S - 1)
    assert client.ended == ""
    loop.pass_time(100 + KEEP_ALIVE_S + 1)
    assert client.ended == "expired"


def test_a_busy_connection_is_never_closed() -> None:
    loop, state = Loop(), Connections(1)
    busy = Client(state, loop)
    state.busy(busy)
    loop.pass_time(1_000)
    refused = Client(state, loop)

    assert (busy.ended, refused.has_room) == ("", False)


def test_room_is_made_by_half_open_connections_first_and_by_the_oldest() -> None:
    loop, state = Loop(), Connections(3)
    idle, first, second = (Client(state, loop) for _ in range(3))
    state.busy(idle)
    state.idle(idle, loop.time())

    more = [Client(state, loop) for _ in range(2)]
    assert (first.ended, second.ended, idle.ended) == ("dropped", "dropped", "")
    for client in more:
        state.busy(client)
    last = Client(state, loop)
    assert (idle.ended, last.has_room) == ("dropped", True)


def test_nothing_is_looked_at_when_no_connection_is_open() -> None:
    loop, state = Loop(), Connections(3)
    client = Client(state, loop)
    state.connections.discard(cast(Any, client))
    state.leave(client)
    loop.pass_time(10)

    assert loop.calls == []
