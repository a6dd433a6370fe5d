"""One thread that reads the sockets of all streamed answers.

Of a thread for each socket, most of the CPU time is spent on waking it: for a piece of text of some 100 bytes.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from urllib3.exceptions import ProtocolError
from urllib3.exceptions import TimeoutError as HTTPTimeout

READ_BYTES = 16_384
"""How much of one socket is read before others have their turn: at most what one TLS record holds."""
MAX_IDLE_S = 2.0
"""How long the thread waits for the next stream after the last one. Then it ends; the next stream starts it again."""
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_log = logging.getLogger(__name__)

Take = Callable[[bytes], bool]
"""Takes what was received, b"" at the end of the connection. Returns whether more is wanted. Must not block."""


def shut_down(sock: socket.socket) -> None:
    """Let a thread that waits for the socket read the end of the connection, and the other side, too.

    `shutdown` of the plain socket is called, because that of a TLS socket would first exchange messages.
    """
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Pump:
    """Reads sockets for the threads that wait in `read`. Its thread runs only while there are streams."""

    def __init__(self, max_idle_s: float = MAX_IDLE_S) -> None:
        self._max_idle_s = max_idle_s
        self._lock = threading.Lock()
        self._new: list[_Reading] = []
        self._waker: socket.socket | None = None

    def read(self, sock: socket.socket, take: Take, *, until_s: Callable[[], float], check_s: float) -> None:
        """Pass what the socket receives to `take`, on the pump's thread, until `take` wants no more. Never blocks then.

        `until_s` returns until when to wait, on the monotonic clock. It is asked at least every `check_s` seconds.

        Raises:
            HTTPError: the connection failed, or the time to wait is over.
            Exception: what `take` raised.
        """
        sock.settimeout(0)
        reading = _Reading(sock, take)
        self._add(reading)
        try:
            while not reading.over.wait(max(0.0, min(until_s() - time.monotonic(), check_s))):
                if until_s() <= time.monotonic():
                    raise HTTPTimeout
        finally:
            if not reading.over.is_set():
                reading.is_left = True
                shut_down(sock)
                reading.over.wait()
        if reading.error is not None:
            raise reading.error

    def _add(self, reading: _Reading) -> None:
        with self._lock:
            if self._waker is None:
                self._waker = self._start()
            self._new.append(reading)
            if len(self._new) == 1:
                self._waker.send(b"\0")

    def _start(self) -> socket.socket:
        """Start the thread; return the socket that wakes it."""
        waker, woken = socket.socketpair()
        selector = selectors.DefaultSelector()
        selector.register(woken, selectors.EVENT_READ)
        threading.Thread(target=self._run, args=(woken, selector), name="engine-streams", daemon=True).start()
        return waker

    def _run(self, woken: socket.socket, selector: selectors.BaseSelector) -> None:
        with woken, selector:
            try:
                self._read_all(woken, selector)
            except Exception:  # the threads that wait must not wait for ever
                _log.exception("reading streams failed")
                self._give_up(selector)

    def _read_all(self, woken: socket.socket, selector: selectors.BaseSelector) -> None:
        """Read until there has been no stream for a while."""
        unread: list[_Reading] = []
        while True:
            found = [key.data for key, _ in selector.select(0 if unread else self._max_idle_s)]
            if None in found:
                woken.recv(READ_BYTES)
                unread += self._begin(selector)
            elif not found and self._is_idle(selector):
                return
            readings = [reading for reading in dict.fromkeys([*found, *unread]) if reading is not None]
            for reading in readings:  # first all, then what is slower, so that other threads are woken once
                reading.receive()
            for reading in readings:
                if not reading.pass_on():
                    selector.unregister(reading.sock)
                    reading.end(reading.error)
            unread = [reading for reading in readings if reading.has_more and not reading.over.is_set()]

    def _begin(self, selector: selectors.BaseSelector) -> list[_Reading]:
        """Return the new readings. They may have bytes that the selector does not see."""
        with self._lock:
            new, self._new = self._new, []
        for reading in new:
            try:
                selector.register(reading.sock, selectors.EVENT_READ, reading)
            except OSError as error:  # the system watches no more sockets
                reading.end(ProtocolError("The socket cannot be waited for.", error))
        return [reading for reading in new if not reading.over.is_set()]

    def _is_idle(self, selector: selectors.BaseSelector) -> bool:
        with self._lock:
            if self._new or len(selector.get_map()) > 1:
                return False
            self._stop()
            return True

    def _give_up(self, selector: selectors.BaseSelector) -> None:
        """Fail all streams, because the pump has failed. The next stream starts it again."""
        with self._lock:
            readings = [*self._new, *(key.data for key in selector.get_map().values() if key.data)]
            self._new = []
            self._stop()
        for reading in readings:
            reading.end(ProtocolError("The pump has failed."))

    def _stop(self) -> None:
        if self._waker is not None:
            self._waker.close()
            self._waker = None


class _Reading:
    """One socket. `over` is set when the pump has let go of it; `is_left` asks for that."""

    def __init__(self, sock: socket.socket, take: Take) -> None:
        self.sock = sock
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.is_left = False
        self._take = take
        self._data: bytes | None = None

    def end(self, error: BaseException | None) -> None:
        """Let the thread go that waits for this reading; it raises the error, if there is one."""
        self.error = error
        self.over.set()

    @property
    def has_more(self) -> bool:
        """Whether there are bytes that the selector does not see, because they are decrypted already."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def receive(self) -> None:
        """Read what is there."""
        try:
            self._data = self.sock.recv(READ_BYTES)
        except _NOT_YET:
            self._data = None
        except OSError as error:
            self.error = ProtocolError("The connection broke.", error)

    def pass_on(self) -> bool:
        """Pass on what was read; return whether more is wanted. An error ends this reading only."""
        if self.error is not None or self.is_left:
            return False
        try:
            return self._data is None or self._take(self._data)
        except BaseException as error:  # raised again on the thread that waits
            self.error = error
            return False
