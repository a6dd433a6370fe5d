"""HTTP connections to engines, with a time-out for the whole answer, and exchanges that another thread can end.

The time-out of a plain socket starts again with each byte, and a thread that waits for a byte cannot be interrupted.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.client import HTTPResponse
from typing import Any

import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url

from llm_server.engines.streams.pump import Pump, shut_down
from llm_server.orchestration.domain.cancellation import Cancellation

MAX_CONNECTIONS_PER_ENGINE = 1024
"""How many connections are kept for the next call: as many as there can be workers."""
MAX_JOINED_BYTES = 65_536
"""A larger request is not copied to send it in one piece, because the copy costs more than a packet."""
_this_thread = threading.local()
"""Its attribute `exchange` is the `Exchange` that this thread is making, or None."""


class EnginePool(urllib3.PoolManager):
    """The connections to all engines, for all threads. TLS is verified; the read time-out limits the whole answer.

    `pump` reads the streamed answers.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(num_pools=32, maxsize=MAX_CONNECTIONS_PER_ENGINE, **options)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self.pump = Pump()

    def request(self, method: str, url: str, **options: Any) -> BaseHTTPResponse:  # type: ignore[override]  # fewer options
        """Send a request with the options of `HTTPConnectionPool.urlopen`; redirects are not followed.

        The method of urllib3 reads the address again for each request.
        """
        scheme, host, port, target = _address(url)
        connections = self.connection_from_host(host, port=port, scheme=scheme)
        return connections.urlopen(method, target, redirect=False, assert_same_host=False, **options)


@lru_cache(maxsize=256)
def _address(url: str) -> tuple[str | None, str | None, int | None, str]:
    """Return scheme, host, port and target of a URL. Raises LocationParseError."""
    parsed = parse_url(url)
    return parsed.scheme, parsed.host, parsed.port, parsed.request_uri


@contextmanager
def cancellable(cancellation: Cancellation) -> Iterator[Exchange]:
    """End the exchange made inside the block when the task is cancelled; one that is connecting ends when connected."""
    exchange = _this_thread.exchange = Exchange()
    try:
        with cancellation.on_cancel(exchange.end):
            yield exchange
    finally:
        _this_thread.exchange = None


class Exchange:
    """One request and its answer; holds the socket in use from the connection to the last byte."""

    def __init__(self) -> None:
        self.answer: TimedAnswer | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    def use(self, sock: socket.socket | None) -> None:
        """Store the socket in use, or None after it was given back to the pool."""
        with self._lock:
            self._socket = sock
            self._shut_down()

    def end(self) -> None:
        """Shut the socket down; called from another thread."""
        with self._lock:
            self._ended = True
            self._shut_down()

    def _shut_down(self) -> None:
        """If the exchange was ended, wake the thread that waits for the socket; it then reads the end of the stream."""
        if self._ended and self._socket is not None:
            shut_down(self._socket)


def _use(sock: socket.socket | None) -> None:
    if (exchange := _exchange()) is not None:
        exchange.use(sock)


def _exchange() -> Exchange | None:
    return getattr(_this_thread, "exchange", None)


class _TimedReader(io.RawIOBase):
    """Reads a socket until its time-out, counted from now, has passed; later reads raise TimeoutError.

    `until_s` is that time, on the monotonic clock. With `is_stopped`, it reads nothing more.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.until_s = time.monotonic() + (sock.gettimeout() or 0.0)
        self.is_stopped = False
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_stopped:
            return None
        left_s = self.until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class TimedAnswer(HTTPResponse):
    """An answer whose headers and body must all arrive within one read time-out, which ends at `until_s`."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.sock = sock
        self._reader = _TimedReader(sock)
        self.fp = io.BufferedReader(self._reader)
        if (exchange := _exchange()) is not None:
            exchange.answer = self

    @property
    def until_s(self) -> float:
        return self._reader.until_s

    def detach_body(self) -> bytes:
        """Leave the body to the caller, who reads it from `sock`. Return the part of it that came with the headers."""
        self._reader.is_stopped = True
        return self.fp.peek()


class _TrackedConnection:
    """Gives the socket in use, new or reused, to this thread's exchange.

    Mixed into urllib3's connections; mypy does not know the methods of `super()`.
    """

    sock: socket.socket | None
    _unsent: list[bytes] | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # a mixin's super() is not typed
        _use(self.sock)

    def request(self, *args: Any, **options: Any) -> None:
        """Send head and body in one piece, because two packets would wake both sides twice; a large body goes alone."""
        _use(self.sock)
        self._unsent = unsent = list[bytes]()
        try:
            super().request(*args, **options)  # type: ignore[misc]  # a mixin's super() is not typed
        finally:
            self._unsent = None
        for piece in [b"".join(unsent)] if sum(map(len, unsent)) <= MAX_JOINED_BYTES else unsent:
            self.send(piece)

    def send(self, data: Any) -> None:
        if self._unsent is None:
            super().send(data)  # type: ignore[misc]  # a mixin's super() is not typed
        else:
            self._unsent.append(data)


class _TrackedPool:
    """Removes the socket from this thread's exchange before the connection is given back for other calls to use.

    Mixed into urllib3's pools, as `_TrackedConnection` is into its connections.
    """

    def _put_conn(self, conn: Any) -> None:
        _use(None)
        super()._put_conn(conn)  # type: ignore[misc]  # a mixin's super() is not typed


class _HTTPConnection(_TrackedConnection, HTTPConnection):
    response_class = TimedAnswer


class _HTTPSConnection(_TrackedConnection, HTTPSConnection):
    response_class = TimedAnswer


class _HTTPPool(_TrackedPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_TrackedPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
