"""The open connections of the embedded server: how many there may be, and how long they may wait."""

from __future__ import annotations

import asyncio
import fcntl
import resource
import struct
import termios
from collections import OrderedDict
from contextlib import suppress
from typing import Protocol

from uvicorn.server import ServerState

HALF_OPEN_S = 30.0
"""How long a request's header section may take, and how long the client may send nothing within a body."""
KEEP_ALIVE_S = 75.0
"""How long a connection may be idle between two requests. Reverse proxies usually keep theirs for 60 s."""
UNREAD_S = 30.0
"""How long a client may read nothing of a response."""
SWEEP_S = 1.0


def max_connections() -> int:
    """Return how many connections may be open: half of this process's open files. The rest is for engines and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2 if soft != resource.RLIM_INFINITY else 4096


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes of responses have not reached the client's system.

    Where the system does not tell what it holds (macOS), only the bytes that it has not yet taken are counted.
    """
    held = bytes(4)
    with suppress(OSError):
        held = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, held)
    return transport.get_write_buffer_size() + int(struct.unpack("i", held)[0])


class Connection(Protocol):
    """A connection, as far as the bounds are concerned."""

    def expire(self) -> None:
        """Close the connection, because the client took too long to send a request.

        It is kept if the server is slow, or if the client has not read all responses; that has a time of its own.
        """

    def unread_bytes(self) -> int:
        """Return how many bytes of responses have not reached the client's system."""

    def note_wait(self) -> None:
        """Note what the connection waits for, now that the client has read the responses."""

    def drop(self) -> None:
        """Close the connection at once, to make room for another one."""


class Connections(ServerState):
    """uvicorn's state of the server, with a bound on connections.

    A connection is half-open while a request is awaited or incomplete, idle between two requests, and busy while the
    server works on a request. Busy connections are never closed here. A connection is unread while the client does not
    read a response as fast as the server sends it, whatever else it does.
    """

    def __init__(self, max_open: int) -> None:
        super().__init__()
        self._max_open = max_open
        self._half_open: OrderedDict[Connection, float] = OrderedDict()
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        self._unread: OrderedDict[Connection, tuple[float, int]] = OrderedDict()
        self._sweeps = False

    def admit(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> bool:
        """Count a new connection as half-open. Return False if there are too many, and none of them can be closed.

        To make room, the oldest half-open connection is closed, else the oldest idle one, else the unread one whose
        client has read nothing for the longest time.
        """
        has_room = len(self.connections) <= self._max_open or self._make_room()
        self._half_open[connection] = loop.time()
        if not self._sweeps:
            self._sweeps = True
            loop.call_later(SWEEP_S, self._sweep, loop)
        return has_room

    def half_open(self, connection: Connection, now: float) -> None:
        """Note that the client has begun to send a request. It has `HALF_OPEN_S` from now."""
        if connection not in self._unread:
            self._idle.pop(connection, None)
            self._half_open[connection] = now
            self._half_open.move_to_end(connection)

    def busy(self, connection: Connection) -> None:
        """Note that a request is complete."""
        self._idle.pop(connection, None)
        self._half_open.pop(connection, None)

    def idle(self, connection: Connection, now: float) -> None:
        """Note that a request is answered, and none has begun since. Calling this again has no further effect."""
        if connection not in self._unread:
            self._half_open.pop(connection, None)
            self._idle.setdefault(connection, now)

    def unread(self, connection: Connection, now: float) -> None:
        """Note that the client does not read fast enough. It has `UNREAD_S` from each time that it reads something.

        What else is noted has no effect until the client has read all, or `read` is called.
        """
        self.busy(connection)
        self._unread[connection] = now, connection.unread_bytes()
        self._unread.move_to_end(connection)

    def read(self, connection: Connection) -> None:
        """Note that the client reads fast enough again."""
        self._unread.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.busy(connection)
        self.read(connection)

    def _make_room(self) -> bool:
        for waiting in (self._half_open, self._idle, self._unread):
            if waiting:
                oldest = next(iter(waiting))
                self.leave(oldest)
                self.connections.discard(oldest)
                oldest.drop()
                return True
        return False

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the connections that have waited too long. Both orders are by time, so only these are looked at."""
        now = loop.time()
        for waiting, most_s in ((self._half_open, HALF_OPEN_S), (self._idle, KEEP_ALIVE_S)):
            while waiting and next(iter(waiting.values())) + most_s <= now:
                oldest, _ = waiting.popitem(last=False)
                oldest.expire()
        self._look_at_unread(now)
        self._sweeps = bool(self.connections)
        if self._sweeps:
            loop.call_later(SWEEP_S, self._sweep, loop)

    def _look_at_unread(self, now: float) -> None:
        """Close the connections whose clients have read nothing for too long."""
        for connection, (since, left_before) in list(self._unread.items()):
            left = connection.unread_bytes()
            if not left:
                self.read(connection)
                connection.note_wait()
            elif left != left_before:
                self._unread[connection] = now, left
                self._unread.move_to_end(connection)
            elif since + UNREAD_S <= now:
                self.read(connection)
                connection.drop()
