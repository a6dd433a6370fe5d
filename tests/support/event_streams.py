"""Read an event stream of an ASGI app without a socket, part by part, and leave it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

from support.scripted_engine import WAIT_S


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a stream; a comment has only `comment`."""

    event: str = ""
    id: int | None = None
    data: Any = None
    comment: str = ""
    retry: int | None = None


def frames(body: bytes) -> list[Frame]:
    """Parse a body as a browser does; it must end with a whole frame."""
    assert not body or body.endswith(b"\n\n")
    return [_frame(text) for text in body.decode().split("\n\n") if text]


def _frame(text: str) -> Frame:
    given = dict(line.split(": ", 1) for line in text.split("\n"))
    assert set(given) <= {"", "id", "event", "data", "retry"}
    return Frame(
        event=given.get("event", ""),
        id=int(given["id"]) if "id" in given else None,
        data=json.loads(given["data"]) if "data" in given else None,
        comment=given.get("", ""),
        retry=int(given["retry"]) if "retry" in given else None,
    )


@dataclass(slots=True)
class OpenStream:
    """A response that is being read. `has_ended` says whether the server ended it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    read: list[Frame] = field(default_factory=list)
    has_ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    may_send: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the reader does not read."""

    async def until(self, *names: str) -> list[Frame]:
        """Read until an event with each of these names has come, and return all frames so far."""
        async with asyncio.timeout(WAIT_S):
            while not {*names} <= {frame.event for frame in self.read}:
                assert not self.has_ended, self.read
                self.changed.clear()
                await self.changed.wait()
        return self.read

    async def to_the_end(self) -> list[Frame]:
        """Read until the server ends the stream, and return all frames."""
        async with asyncio.timeout(WAIT_S):
            while not self.has_ended:
                self.changed.clear()
                await self.changed.wait()
        return self.read

    @property
    def events(self) -> list[Frame]:
        """The frames that are events of the task."""
        return [frame for frame in self.read if frame.id is not None]


@asynccontextmanager
async def open_stream(
    app: ASGIApp, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: bytes = b""
) -> AsyncIterator[OpenStream]:
    """Open a stream for the block; after it, the reader disconnects, and the app must let go.

    The path is below /api/v1 unless it begins with `/`.
    """
    target, _, query = (path if path.startswith("/") else f"/api/v1/{path}").partition("?")
    sent = {"accept": "text/event-stream", "host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": target,
        "raw_path": target.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
    }
    stream, left, is_asked = OpenStream(), asyncio.Event(), False
    stream.may_send.set()

    async def receive() -> Message:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not left.is_set():
            await stream.may_send.wait()
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            stream.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            body = message.get("body", b"")
            if stream.headers.get("content-type", "").startswith("text/event-stream"):
                stream.read += frames(body)
            stream.has_ended = not message.get("more_body", False)
        stream.changed.set()

    serving = asyncio.ensure_future(app(scope, receive, send))
    try:
        yield stream
    finally:
        left.set()
        stream.may_send.set()
        await asyncio.wait_for(serving, WAIT_S)
