"""The responses that tell the events of a feed: a page, a stream that lasts, or a segment of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Literal, Protocol

from fastapi import Response
from starlette.types import Receive, Scope, Send

from llm_server.api import waiting
from llm_server.api.edge import IS_HEAD
from llm_server.api.error_codes import Refusal
from llm_server.api.streams import wire
from llm_server.api.streams.cursor import EVENT_STREAM
from llm_server.api.streams.feed import Feed
from llm_server.orchestration.domain.errors import ScopeMissing, StorageUnavailable, TaskNotFound, Unauthenticated
from llm_server.orchestration.events.history import EventPage

MAX_WAIT_S = 20
"""How long a page, or a segment of a stream, may wait for an event: less than the 29 s of a Lambda invocation."""
KEEP_ALIVE_S = 15.0
"""After how long without an event a stream sends a comment. The caller's key is checked again as often."""

_PAGE_HEADERS = {"Vary": "Accept"}
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **_PAGE_HEADERS}
Reason = Literal["final", "deleted", "refused", "stopping", "unanswered", "time"]
"""Why a stream ends. `stopping`: the server stops. `unanswered`: its database does not answer. `time`: see `told`."""
CheckCaller = Callable[[], Awaitable[None]]
"""Checks the caller's key again. Raises Unauthenticated, ScopeMissing or Refusal."""


class Telling(Protocol):
    """Writes the body of one stream."""

    @property
    def is_over(self) -> bool:
        """Whether the body has its last part, although events may follow."""
        ...

    def begin(self) -> bytes:
        """Return what comes before the first events."""
        ...

    async def events(self, page: EventPage) -> bytes:
        """Return the next events. Raises TaskNotFound or StorageUnavailable."""
        ...

    def end(self, reason: Reason) -> bytes:
        """Return the last part of the body."""
        ...


class _Frames:
    """Writes each event as a frame, as `GET /tasks/{id}/events` sends it."""

    is_over = False

    def begin(self) -> bytes:
        return wire.RETRY

    async def events(self, page: EventPage) -> bytes:
        return b"".join(map(wire.frame, page.events))

    def end(self, reason: Reason) -> bytes:
        if reason == "stopping" or reason == "time":
            return wire.STOPPING
        return wire.UNANSWERED if reason == "unanswered" else wire.end(reason)


async def page(feed: Feed, after: int, wait_s: int, scope: Scope) -> Response:
    """Respond with the next events as JSON, after at most `wait_s` seconds. Raises the errors of `Feed.next`."""
    with closing(feed):
        events = await feed.next(waiting.possible_s(wait_s, scope))
    return Response(wire.page(events, after), headers=_PAGE_HEADERS, media_type="application/json")


async def stream(feed: Feed, scope: Scope, *, lasts: bool, check_caller: CheckCaller) -> Response:
    """Respond with a stream until the task ends, or, unless `lasts`, with its next events as one body.

    The reader of such a body connects again, so the body is sent as soon as there is an event, or after `MAX_WAIT_S`.
    Raises the errors of `Feed.next`.
    """
    try:
        events = await feed.next(0 if lasts else waiting.possible_s(MAX_WAIT_S, scope))
        if events.ended and not events.events:
            feed.close()
            return Response(status_code=204, headers=_PAGE_HEADERS)  # a browser's EventSource stops
    except BaseException:
        feed.close()
        raise
    return EventStream(feed, events, check_caller, _Frames()) if lasts else _segment(events)


async def told(feed: Feed, telling: Telling, scope: Scope, *, lasts: bool, check_caller: CheckCaller) -> Response:
    """Respond with a stream that `telling` writes: until the task ends, or, unless `lasts`, with what
    there is after at most 25 s.

    Raises the errors of `Feed.next` if they come before the first event.
    """
    try:
        if not lasts:
            return await _whole(feed, telling, waiting.possible_s(waiting.MAX_WAIT_S, scope))
        return EventStream(feed, await feed.next(0), check_caller, telling)
    except BaseException:
        feed.close()
        raise


async def _whole(feed: Feed, telling: Telling, wait_s: float) -> Response:
    """Respond with all events as one body, once the task has ended, or after `wait_s` seconds at the latest."""
    clock = asyncio.get_running_loop().time
    end, body = clock() + wait_s, telling.begin()
    with closing(feed):
        while not (telling.is_over or feed.is_over):
            events = await feed.next(max(0.0, end - clock()))
            body += await telling.events(events)
            if events.ended or clock() >= end:
                break
    if not telling.is_over:
        body += telling.end("time")
    return Response(body, headers=_STREAM_HEADERS, media_type=EVENT_STREAM)


def _segment(events: EventPage) -> Response:
    frames = b"".join(map(wire.frame, events.events)) or wire.KEEP_ALIVE
    body = wire.RETRY + frames + (wire.end("final") if events.ended else b"")
    return Response(body, headers=_STREAM_HEADERS, media_type=EVENT_STREAM)


class EventStream(Response):
    """Sends the events of a feed as they come, until the task ends or the reader leaves."""

    media_type = EVENT_STREAM

    def __init__(self, feed: Feed, first: EventPage, check_caller: CheckCaller, telling: Telling) -> None:
        self.status_code = 200
        self.background = None
        self._feed = feed
        self._first = first
        self._check_caller = check_caller
        self._telling = telling
        self.init_headers(_STREAM_HEADERS)  # without a length, because this response has no `body`

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._feed):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not scope.get(IS_HEAD):
                leaving = asyncio.ensure_future(self._close_when_left(receive))
                try:
                    async for body in self._bodies():
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                finally:
                    leaving.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _close_when_left(self, receive: Receive) -> None:
        """Close the feed when the reader disconnects, so that nothing waits for events any more."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._feed.close()

    async def _bodies(self) -> AsyncIterator[bytes]:
        """Yield the parts of the body; the last one says why the stream ends."""
        clock = asyncio.get_running_loop().time
        telling = self._telling
        events, checks_at, body = self._first, clock() + KEEP_ALIVE_S, telling.begin()
        try:
            while not self._feed.is_over:
                body += await telling.events(events)
                if events.ended or telling.is_over:
                    yield body + telling.end("final")
                    return
                yield body or wire.KEEP_ALIVE
                if clock() >= checks_at:
                    checks_at = clock() + KEEP_ALIVE_S
                    await self._check_caller()
                events, body = await self._feed.next(max(0.0, checks_at - clock())), b""
            yield telling.end("stopping")
        except StorageUnavailable:
            yield telling.end("unanswered")
        except TaskNotFound:
            yield telling.end("deleted")
        except (Unauthenticated, ScopeMissing, Refusal):
            yield telling.end("refused")
