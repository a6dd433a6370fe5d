"""How long connections may wait for their client, and which one makes room for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from llm_server.embedded.connections import HALF_OPEN_S, KEEP_ALIVE_S, UNREAD_S, Connections
from llm_server.embedded.http_protocol import MAX_BODY_S


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
        self.unread = 0
        self.notes = 0
        state.connections.add(cast(Any, self))
        self.has_room = state.admit(self, cast(asyncio.AbstractEventLoop, loop))

    def expire(self) -> None:
        self.ended = "expired"

    def drop(self) -> None:
        self.ended = "dropped"

    def unread_bytes(self) -> int:
        return self.unread

    def note_wait(self) -> None:
        self.notes += 1


def test_the_times_are_those_of_the_docs() -> None:
    assert (HALF_OPEN_S, UNREAD_S, KEEP_ALIVE_S, MAX_BODY_S) == (30, 30, 75, 600)


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


def test_the_oldest_idle_connection_is_closed_whatever_others_do() -> None:
    """One that renewed its own time kept all younger ones open."""
    loop, state = Loop(), Connections(10)
    first, second = Client(state, loop), Client(state, loop)
    for client in (first, second):
        state.busy(client)
        state.idle(client, loop.time())
    for now in range(10, 80, 10):
        loop.pass_time(now)
        state.idle(first, loop.time())

    assert (first.ended, second.ended) == ("", "")
    loop.pass_time(KEEP_ALIVE_S + 1)
    assert (first.ended, second.ended) == ("expired", "expired")


def test_a_client_that_reads_nothing_for_30_s_is_closed_and_one_that_reads_is_not() -> None:
    """What else the connection notes meanwhile does not matter."""
    loop, state = Loop(), Connections(10)
    deaf, slow = Client(state, loop), Client(state, loop)
    for client in (deaf, slow):
        client.unread = 1_000
        state.unread(client, loop.time())
    for now in range(1, 200):
        slow.unread -= now % 25 == 0
        for client in (deaf, slow)[now > UNREAD_S :]:
            state.busy(client)
            state.idle(client, loop.time())
            state.half_open(client, loop.time())
        loop.pass_time(now)
        assert (deaf.ended, slow.ended) == ("dropped" if now >= UNREAD_S else "", "")


def test_a_client_that_has_read_all_has_the_usual_time_again() -> None:
    loop, state = Loop(), Connections(10)
    client = Client(state, loop)
    client.unread = 5
    state.unread(client, loop.time())
    loop.pass_time(10)
    client.unread = 0
    loop.pass_time(12)
    state.idle(client, loop.time())

    loop.pass_time(11 + KEEP_ALIVE_S)
    assert (client.notes, client.ended) == (1, "")
    loop.pass_time(13 + KEEP_ALIVE_S)
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


def test_the_client_that_has_read_nothing_for_longest_makes_room_if_no_other_can() -> None:
    loop, state = Loop(), Connections(3)
    idle, slow, deaf = (Client(state, loop) for _ in range(3))
    for client in (slow, deaf):
        client.unread = 1_000
        state.unread(client, loop.time())
    state.idle(idle, loop.time())
    slow.unread = 900
    loop.pass_time(2)

    for ended in (["dropped", "", ""], ["dropped", "", "dropped"], ["dropped", "dropped", "dropped"]):
        newest = Client(state, loop)
        state.busy(newest)
        assert newest.has_room
        assert [idle.ended, slow.ended, deaf.ended] == ended
    assert not Client(state, loop).has_room


def test_nothing_is_looked_at_when_no_connection_is_open() -> None:
    loop, state = Loop(), Connections(3)
    client = Client(state, loop)
    state.connections.discard(cast(Any, client))
    state.leave(client)
    loop.pass_time(10)

    assert loop.calls == []
