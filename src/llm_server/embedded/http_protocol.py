"""The HTTP protocol of the embedded server: uvicorn's, with bounds on what a client may send and how long.

A request that is refused here is handed to the app as one with `REFUSAL` in its scope. So it is answered like all
others, after the requests before it. Then the connection is closed.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llm_server.api.edge import REFUSAL
from llm_server.embedded.connections import Connections, unread_bytes
from llm_server.embedded.request_head import Refused, check_head, check_protocol, fault_of

MAX_HEADER_BYTES = 64 * 1024
"""The longest header section, with the request line. The trailers of a body, and the framing of a chunk, count too."""
MAX_TARGET_BYTES = 16 * 1024
MAX_BODY_S = 600.0
"""How long a body may take, even if a part of it comes every few seconds."""
LINGER_S = 2.0
"""How long a refused connection stays open, so that a client which still sends can read the response."""
MAX_DISCARDED_BYTES = 8 * 1024 * 1024
"""How much of a refused or answered request is read and discarded before the connection is closed.

More than a proxy sends of a body that is too long: a proxy whose connection is closed while it still sends answers 502,
and not the 413 that it was sent.
"""

_SLICE_BYTES = 8 * 1024
"""What the parser gets at a time. Where a message begins in it is not known, so all of it counts as its header."""
_NOTHING, _HEAD, _BODY = range(3)
"""The part of a request that has begun and is not complete."""

_HEADERS_TOO_LARGE = Refused(
    "headers_too_large", f"The header section is too large; at most {MAX_HEADER_BYTES} bytes are accepted."
)
_TARGET_TOO_LONG = Refused(
    "uri_too_long", f"The path and query are too long; at most {MAX_TARGET_BYTES} bytes are accepted."
)
_TOO_SLOW = Refused("request_timeout", "The request did not arrive in time.")
_TOO_MANY = Refused("too_many_connections", "The server has too many open connections, and all of them are in use.")


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = server_state
        self._part = _NOTHING
        self._section_bytes = 0  # since the header section, the chunk or the trailers began
        self._head_is_new = False
        self._slices: list[bytes] = []  # that the head is in
        self._body_ends: float | None = None
        self._unread = b""  # behind a pipelined request
        self._has_left = False
        self._discarded_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if not self._bounds.admit(self, self.loop):
            self._refuse(_TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_left:
            self._discard(len(data))
            return
        if self.pipeline or self._unread:
            self._unread += data
            self.flow.pause_reading()
            return
        used = 0
        while used < len(data) and not self._has_left:
            room = min(MAX_HEADER_BYTES - self._section_bytes, _SLICE_BYTES)
            if room <= 0:
                self._refuse(_HEADERS_TOO_LARGE)
            elif used or len(data) > room:
                used += self._parse(data[used : used + room])
            else:
                used = self._parse(data)
            if self.pipeline:
                self._unread += data[used:]
                break
        self._note_progress(len(data))

    def _parse(self, data: bytes) -> int:
        """Parse a part of a request; return how many bytes of it were used."""
        is_first = self._part == _NOTHING and not self._section_bytes
        counted = self._section_bytes = self._section_bytes + len(data)
        self._slices.append(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._read_without_upgrade(upgrade.args[0])
        except httptools.HttpParserError as error:
            is_first = is_first and self._section_bytes == counted
            self._refuse(fault_of(error, self.parser, data if is_first else b""))
        if self._part != _HEAD:
            self._slices.clear()
        if self._section_bytes < counted and self._part != _NOTHING:
            self._section_bytes = len(data)
        return len(data)

    def _read_without_upgrade(self, used: int) -> int:
        """Read the body of a request with `Upgrade`, which is answered as if it had none (RFC 9110, 7.8).

        The parser takes what follows for another protocol, so the rest is given to a new one. The connection is closed
        after the response.
        """
        framing = [h for h in self.scope["headers"] if h[0] in (b"content-length", b"transfer-encoding")]
        lines = b"".join(b"%s: %s\r\n" % header for header in framing)
        callbacks = SimpleNamespace(on_body=self.on_body, on_message_complete=self.on_message_complete)
        self.cycle.keep_alive = False
        self.parser = httptools.HttpRequestParser(callbacks)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"POST / HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n")
        return used

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = _HEAD
        self._head_is_new = True

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            raise _TARGET_TOO_LONG

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # the parser removes only what precedes a value

    def on_headers_complete(self) -> None:
        check_protocol(self.url, b"".join(self._slices))
        del self._slices[:-1]  # the last one may contain the next head
        check_head(self.parser, self.url, self.headers)
        super().on_headers_complete()
        self._part = _BODY
        self.headers = []  # trailers are put here, and not among the headers that the app reads

    def on_body(self, body: bytes) -> None:
        self._section_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the body is still to be read
        super().on_message_complete()
        self._part = _NOTHING
        self._section_bytes = 0
        self._body_ends = None

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif self._has_left:
                return
            elif self._unread:
                unread, self._unread = self._unread, b""
                self.data_received(unread)
                return
        self.note_wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bounds.unread(self, self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._bounds.read(self)
        self.note_wait()

    def expire(self) -> None:
        if self.flow.read_paused:  # the server is slow, not the client
            self._bounds.half_open(self, self.loop.time())
        elif self.unread_bytes():
            self._bounds.unread(self, self.loop.time())
        elif self._part == _NOTHING or self._has_left or self.transport.is_closing():
            self.transport.abort()
        else:
            self._refuse(_TOO_SLOW)

    def drop(self) -> None:
        self.transport.abort()

    def unread_bytes(self) -> int:
        return unread_bytes(self.transport)

    def note_wait(self) -> None:
        is_answered = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or self._has_left or (self._part == _BODY and not self.pipeline):
            self._bounds.half_open(self, self.loop.time())
        elif not is_answered:
            self._bounds.busy(self)
        elif self._part == _HEAD:
            self._head_is_new = False
            self._bounds.half_open(self, self.loop.time())
        elif self.cycle is not None:
            self._bounds.idle(self, self.loop.time())

    def _note_progress(self, received: int) -> None:
        """Tell the bounds what the connection waits for, after `received` bytes."""
        if self._has_left:
            return
        if self._part != _HEAD or self._head_is_new:
            self.note_wait()
        if self._part == _BODY and not self.pipeline:
            now = self.loop.time()
            self._body_ends = self._body_ends or now + MAX_BODY_S
            if self.cycle.response_complete:
                self._discard(received)
            if now > self._body_ends:
                self._refuse(_TOO_SLOW)

    def _refuse(self, refused: Refused) -> None:
        """Answer a request with an error, after those before it, and read no more of this connection."""
        self._has_left = True
        must_wait = self.cycle is not None and not self.cycle.response_complete
        if self._part == _BODY:  # the request has begun; what the app answers is not sent
            must_wait = bool(self.pipeline)
            if must_wait:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self._leave()
                return
            else:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        if self._part == _NOTHING:
            self.on_message_begin()
        self.cycle = self._refusal(refused)
        if must_wait:
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _refusal(self, refused: Refused) -> RequestResponseCycle:
        """Return a request that the app answers with an error, and without a body if it is a HEAD request."""
        is_head = bool(self.url) and self.parser.get_method() == b"HEAD"
        scope = {**self.scope, "method": "HEAD" if is_head else "GET", REFUSAL: (refused.code, refused.detail)}
        scope |= {"path": "/", "raw_path": b"/", "query_string": b""}
        cycle = RequestResponseCycle(
            scope=cast(Any, scope),
            transport=cast(asyncio.Transport, SimpleNamespace(write=self.transport.write, close=self._leave)),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        return cycle

    def _leave(self) -> None:
        """Close this side of the connection. What the client still sends is read for a while, and discarded.

        Without that, the client's system may throw the response away before the client has read it (RFC 9112, 9.6).
        """
        self._has_left = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._bounds.half_open(self, self.loop.time())
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _discard(self, received: int) -> None:
        self._discarded_bytes += received
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.close()
