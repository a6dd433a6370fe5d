"""The open connections of the embedded server: how many there may be, and how long they may wait."""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from typing import Protocol

from uvicorn.server import ServerState

HALF_OPEN_S = 30.0
"""How long a request's header section may take, and how long the client may send nothing within a body."""
KEEP_ALIVE_S = 75.0
"""How long a connection may be idle between two requests. Reverse proxies usually keep theirs for 60 s."""
SWEEP_S = 1.0


def max_connections() -> int:
    """Return how many connections may be open: half of this process's open files. The rest is for engines and files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft // 2 if soft != resource.RLIM_INFINITY else 4096


class Connection(Protocol):
    """A connection, as far as the bounds are concerned."""

    def expire(self) -> None:
        """Close the connection, because the client took too long to send a request."""

    def drop(self) -> None:
        """Close the connection at once, to make room for another one."""


class Connections(ServerState):
    """uvicorn's state of the server, with a bound on connections.

    A connection is half-open while a request is awaited or incomplete, idle between two requests, and busy while the
    server works on a request. Busy connections are never closed here.
    """

    def __init__(self, max_open: int) -> None:
        super().__init__()
        self._max_open = max_open
        self._half_open: OrderedDict[Connection, float] = OrderedDict()
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        self._sweeps = False

    def admit(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> bool:
        """Count a new connection as half-open. Return False if there are too many, and none of them can be closed.

        To make room, the oldest half-open connection is closed, else the oldest idle one.
        """
        has_room = len(self.connections) <= self._max_open or self._make_room()
        self._half_open[connection] = loop.time()
        if not self._sweeps:
            self._sweeps = True
            loop.call_later(SWEEP_S, self._sweep, loop)
        return has_room

    def half_open(self, connection: Connection, now: float) -> None:
        """Note that the client has begun to send a request. It has `HALF_OPEN_S` from now."""
        self._idle.pop(connection, None)
        self._half_open[connection] = now
        self._half_open.move_to_end(connection)

    def busy(self, connection: Connection) -> None:
        """Note that a request is complete."""
        self._idle.pop(connection, None)
        self._half_open.pop(connection, None)

    def idle(self, connection: Connection, now: float) -> None:
        """Note that a request is answered, and none has begun since."""
        self._half_open.pop(connection, None)
        self._idle[connection] = now

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.busy(connection)

    def _make_room(self) -> bool:
        for waiting in (self._half_open, self._idle):
            if waiting:
                oldest, _ = waiting.popitem(last=False)
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
        self._sweeps = bool(self.connections)
        if self._sweeps:
            loop.call_later(SWEEP_S, self._sweep, loop)
