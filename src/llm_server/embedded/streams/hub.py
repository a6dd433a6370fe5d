"""Tells the readers of a task's events of each commit of its state, and of each piece of text, without the database."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Future, TimerHandle
from functools import partial
from typing import NamedTuple

from llm_server.embedded.loop_calls import LoopCalls, end
from llm_server.embedded.streams.by_task import ByTask
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.task import TaskRef

MAX_HELD = 2_000
MAX_HELD_CHARS = 256 * 1024
"""How many pieces of text, and characters in them, are held for a reader that is slower than the engine."""

MAX_LATE_S = 0.01
"""How much longer a wait may last, so that the timer of the wait before it can serve it, too."""


class Hub:
    """The readers of one event loop, by task. `publish`, `changed` and `stop` may be called on any thread.

    Where no reader follows a task, `publish` and `changed` cost one look-up in a dict.
    """

    def __init__(self) -> None:
        self._readers = ByTask[Reader]()
        self.loop_calls = LoopCalls()

    def publish(self, ref: TaskRef, delta: Delta) -> None:
        """Give a piece of text to the readers of its task. See `LiveText`."""
        for reader in self._readers.of(ref):
            reader.put(delta)

    def changed(self, ref: TaskRef) -> None:
        """Tell the readers of a task that a new state of it is committed, or that it was deleted."""
        for reader in self._readers.of(ref):
            reader.must_read()

    def join(self, reader: Reader) -> None:
        """Add a reader. If the server is stopping, the reader is let go at once."""
        if not self._readers.add(reader):
            reader.let_go()

    def leave(self, reader: Reader) -> None:
        """Remove a reader. Calling this again has no further effect."""
        self._readers.remove(reader)

    def stop(self) -> None:
        """Let all readers go, and each later reader at once: the server is stopping."""
        for reader in self._readers.stop():
            reader.let_go()

    @property
    def count(self) -> int:
        """How many readers there are."""
        return self._readers.count


class News(NamedTuple):
    """What a reader was told: new text, and whether the store must be read before it."""

    deltas: list[Delta]
    must_read: bool


class Reader:
    """What one reader of a task is told. It is told on any thread, and reads on its event loop.

    At the beginning the store must be read.
    """

    def __init__(self, ref: TaskRef, hub: Hub) -> None:
        self.ref = ref
        self.is_over = False
        self._hub = hub
        self._lock = threading.Lock()
        self._deltas: list[Delta] = []
        self._chars = 0
        self._must_read = True
        self._told: Future[None] | None = None
        self._timer: TimerHandle | None = None
        hub.join(self)

    def put(self, delta: Delta) -> None:
        """Hold a piece of text for the reader. If too many are held, drop them all: the reader reads the store."""
        with self._lock:
            if len(self._deltas) >= MAX_HELD or self._chars > MAX_HELD_CHARS:
                self._deltas, self._chars = [], 0
                self._must_read = True
            self._deltas.append(delta)
            self._chars += len(delta.text)
            self._tell()

    def must_read(self) -> None:
        """Tell the reader that the store has something new."""
        with self._lock:
            self._must_read = True
            self._tell()

    def let_go(self) -> None:
        """End the reader's waiting; it is told nothing more."""
        with self._lock:
            self.is_over = True
            self._tell()

    def take(self) -> News:
        """Return what the reader was told since the last call."""
        with self._lock:
            news = News(self._deltas, self._must_read)
            self._deltas, self._chars = [], 0
            self._must_read = False
            return news

    async def wait(self, wait_s: float) -> None:
        """Wait until the reader is told something, or has been since the last `take`, for at most `wait_s` seconds.

        The wait may end earlier with nothing told, because one timer serves many waits: each piece of text ends one.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._deltas or self._must_read or self.is_over:
                return
            told: Future[None] = loop.create_future()
            self._told = told
        if self._timer is None or self._timer.when() > loop.time() + wait_s + MAX_LATE_S:
            self.stop_timer()
            self._timer = loop.call_later(wait_s, self._end_wait)
        try:
            await told
        finally:
            self._told = None

    def stop_timer(self) -> None:
        """Let go of the event loop's timer; call this on its thread when nothing waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_wait(self) -> None:
        self._timer = None
        if self._told is not None:
            end(self._told)

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            self._hub.loop_calls.add(told.get_loop(), partial(end, told))
