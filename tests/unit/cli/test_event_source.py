"""The events of a task reach the command line once each, over lost connections and restarts."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from llm_server.cli.connection import Connection, ServerRefused, ServerUnreachable
from llm_server.cli.watching.event_source import MAX_LOST_S, EventSource
from support.scripted_server import Reply, Script

END = b'event: end\ndata: {"reason":"final"}\n\n'
LOST = Reply(body=None)


class Clock:
    """Time that passes only while the client sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 0.001)


class Watched:
    """A source of events, and what it said about lost connections."""

    def __init__(self, server: Script) -> None:
        self.clock = Clock()
        self.lost: list[str] = []
        connection = Connection(server.url)
        self.source = EventSource(connection, "t1", on_lost=self.lost.append, clock=self.clock, sleep=self.clock.sleep)

    def numbers(self, until: float = 10_000) -> list[int]:
        return [event["number"] for event in self.source.events(until=until)]


def frame(number: int, **fields: object) -> bytes:
    document = json.dumps({"number": number, "event": "claimed", **fields})
    return f"id: {number}\nevent: claimed\ndata: {document}\n\n".encode()


def stream(*parts: bytes, cuts: bool = False) -> Reply:
    return Reply(body=b"", parts=(b"retry: 2000\n\n", *parts), cuts=cuts)


def page(*numbers: int, ended: bool = False) -> Reply:
    events: list[Mapping[str, Any]] = [{"number": number, "event": "claimed"} for number in numbers]
    return Reply(body={"events": events, "last": max(numbers, default=0), "ended": ended})


def test_a_stream_is_read_to_its_end(server: Script) -> None:
    """A frame may be cut into several parts anywhere, and comments are ignored."""
    first, second = frame(1), frame(2, text="Grüße\n🌍")
    server.replies = [stream(first[:7], first[7:] + second[:-1], second[-1:] + b": keep-alive\n\n", END)]
    watched = Watched(server)

    assert watched.numbers() == [1, 2]
    (asked,) = server.asked
    assert (asked.line, asked.headers["Accept"]) == ("GET /api/v1/tasks/t1/events", "text/event-stream")
    assert watched.lost == []


@pytest.mark.parametrize("lost", [stream(frame(1), cuts=True), stream(frame(1), frame(2)[:-5], cuts=True)])
def test_a_lost_stream_is_resumed_after_the_last_whole_event(server: Script, lost: Reply) -> None:
    unavailable = Reply(body={"detail": "The database does not answer."}, status=503)
    server.replies = [lost, LOST, unavailable, stream(frame(2), END)]
    watched = Watched(server)

    assert watched.numbers() == [1, 2]
    assert [asked.headers["Last-Event-ID"] for asked in server.asked] == ["0", "1", "1", "1"]
    assert len(watched.lost) == 1


def test_a_stream_that_ends_without_an_end_is_resumed(server: Script) -> None:
    """The server is stopping; that is not a failure."""
    server.replies = [stream(frame(1), b": the server is stopping\n\n"), stream(frame(2), END)]
    watched = Watched(server)

    assert (watched.numbers(), watched.lost) == ([1, 2], [])


def test_nothing_after_the_end_is_the_end(server: Script) -> None:
    server.replies = [Reply(body=b"", status=204)]

    assert Watched(server).numbers() == []


def test_where_streams_are_sent_as_a_whole_the_next_events_are_polled(server: Script) -> None:
    whole = Reply(body=b"retry: 2000\n\n" + frame(1), content_type="text/event-stream")
    server.replies = [whole, page(2), LOST, page(), page(5, 7, ended=True)]

    assert Watched(server).numbers() == [1, 2, 5, 7]
    assert [asked.line.partition("?")[2] for asked in server.asked] == [
        "",
        "starting_after=1&wait=20",
        "starting_after=2&wait=20",
        "starting_after=2&wait=20",
        "starting_after=2&wait=20",
    ]


def test_a_server_that_stays_away_is_given_up(server: Script) -> None:
    server.replies = [stream(frame(1), cuts=True), LOST]
    watched = Watched(server)

    with pytest.raises(ServerUnreachable):
        watched.numbers()
    assert MAX_LOST_S <= watched.clock.now_s < MAX_LOST_S + 20
    assert len(watched.lost) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body={"detail": "There is no such task."}, status=404),
        stream(b'event: end\ndata: {"reason":"deleted"}\n\n'),
        stream(b'event: end\ndata: {"reason":"refused"}\n\n'),
    ],
)
def test_a_refusal_ends_the_watch_at_once(server: Script, reply: Reply) -> None:
    server.replies = [reply]

    with pytest.raises(ServerRefused):
        Watched(server).numbers()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>", content_type="text/html"),
        stream(b"event: claimed\ndata: hello\n\n"),
        stream(b"event: claimed\ndata: [1]\n\n"),
    ],
)
def test_the_answer_of_another_program_is_an_error(server: Script, reply: Reply) -> None:
    server.replies = [reply]

    with pytest.raises(ServerUnreachable):
        Watched(server).numbers()


def test_the_time_to_watch_ends_the_watch(server: Script) -> None:
    server.replies = [stream(frame(1)), stream(b": keep-alive\n\n")]
    watched = Watched(server)

    assert watched.numbers(until=30) == [1]
    assert 30 <= watched.clock.now_s < 36
