"""The socket of an exchange under way, so that another thread can break the exchange off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llm_server.orchestration.domain.cancellation import Cancellation


class _Line:
    """The socket this thread's exchange uses, from the connection to the last byte."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._broken = False

    def take(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._socket = sock
            self._shut()

    def break_off(self) -> None:
        with self._lock:
            self._broken = True
            self._shut()

    def _shut(self) -> None:
        """Wake the thread that waits for the socket; it finds the end of the stream. TLS must not say goodbye first."""
        if self._broken and self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


_of_thread = threading.local()


@contextmanager
def breakable(cancellation: Cancellation) -> Iterator[None]:
    """Inside, an exchange of this thread ends when the task is cancelled."""
    line = _of_thread.line = _Line()
    try:
        with cancellation.breaking_off(line.break_off):
            yield
    finally:
        _of_thread.line = None


def _use(sock: socket.socket | None) -> None:
    line = getattr(_of_thread, "line", None)
    if line is not None:
        line.take(sock)


class Breakable:
    """For a connection: its socket is the line's, be it new or used before.

    Mixed into urllib3's classes, which have what is called of `super()` here: mypy cannot know.
    """

    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _use(self.sock)

    def request(self, *args: Any, **options: Any) -> None:
        _use(self.sock)
        super().request(*args, **options)  # type: ignore[misc]


class BreakablePool:
    """For a pool, mixed in like `Breakable`: a connection that comes back may at once be another call's."""

    def _put_conn(self, conn: Any) -> None:
        _use(None)
        super()._put_conn(conn)  # type: ignore[misc]
