"""Connections to engines: they bound the time of a whole answer, and another thread can end an exchange.

A plain socket's time-out starts anew with every byte, and a thread that waits for a byte cannot be interrupted.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from llm_server.orchestration.domain.cancellation import Cancellation

MAX_CONNECTIONS_PER_ENGINE = 64
_this_thread = threading.local()
"""`exchange` is the _Exchange of this thread, or None."""


class EnginePool(urllib3.PoolManager):
    """Connections to all engines for all threads: TLS is verified, the read time-out bounds the whole answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(num_pools=32, maxsize=MAX_CONNECTIONS_PER_ENGINE, **options)
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


@contextmanager
def cancellable(cancellation: Cancellation) -> Iterator[None]:
    """End the exchange that this thread makes inside when the task is cancelled, or once it has connected."""
    exchange = _this_thread.exchange = _Exchange()
    try:
        with cancellation.breaking_off(exchange.end):
            yield
    finally:
        _this_thread.exchange = None


class _Exchange:
    """One request and its answer; knows the socket it uses, from the connection to the last byte."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ended = False

    def use(self, sock: socket.socket | None) -> None:
        """Note the socket; None when it was given back, so that another exchange may use it."""
        with self._lock:
            self._socket = sock
            self._shut_down()

    def end(self) -> None:
        """Shut the socket down; called from another thread."""
        with self._lock:
            self._ended = True
            self._shut_down()

    def _shut_down(self) -> None:
        """Wake the thread that waits for the socket: it reads the end of the stream.

        The call goes past TLS, which would first exchange a goodbye with the engine.
        """
        if self._ended and self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _use(sock: socket.socket | None) -> None:
    exchange = getattr(_this_thread, "exchange", None)
    if exchange is not None:
        exchange.use(sock)


class _TimedReader(io.RawIOBase):
    """Reads a socket until a fixed moment."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """An answer whose headers and body must all arrive within the read time-out it starts with."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock))


class _TrackedConnection:
    """Tells this thread's exchange which socket it uses, a new one or one that was used before.

    Mixed into urllib3's connections; mypy cannot know the methods of `super()`.
    """

    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _use(self.sock)

    def request(self, *args: Any, **options: Any) -> None:
        _use(self.sock)
        super().request(*args, **options)  # type: ignore[misc]


class _TrackedPool:
    """Takes the socket from this thread's exchange when the connection is given back: another call may then use it.

    Mixed into urllib3's pools, like `_TrackedConnection`.
    """

    def _put_conn(self, conn: Any) -> None:
        _use(None)
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPConnection(_TrackedConnection, HTTPConnection):
    response_class = _TimedResponse


class _HTTPSConnection(_TrackedConnection, HTTPSConnection):
    response_class = _TimedResponse


class _HTTPPool(_TrackedPool, urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_TrackedPool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
