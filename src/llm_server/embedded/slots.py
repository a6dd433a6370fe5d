"""Limits how many workers compute at the same time.

Python runs one thread at a time. If hundreds of workers get their answers together and all go on at once, the thread of
the event loop waits for its turn behind them. A worker that waits for an engine or for the steps of its plan has no
slot, so slots do not limit how many tasks are in progress.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line, Turns


class Slots:
    """The slots of the workers. Those that were waiting for an engine get one before those that have a new task.

    Among either of them, the slots are given by turns between tenants (`Turns`).

    `on_free` is called when a worker begins to wait, so that another one can be started.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._returning = Turns[threading.Lock]()
        self._new = Turns[threading.Lock]()
        self._thread = threading.local()
        """Its attribute `line` is the line of a thread's task while the thread has a slot, else None or unset."""
        self.on_free: Callable[[], None] = lambda: None

    @property
    def any_free(self) -> bool:
        return self._free > 0

    @contextmanager
    def slot(self, line: Line = OF_NO_TENANT) -> Iterator[None]:
        """Wait in a line for a slot, and hold it for the block."""
        self._take(self._new, line)
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Give this thread's slot back for the block, and wait for one after it.

        Does nothing on threads that have no slot: those of a plan's parallel steps.
        """
        line: Line | None = getattr(self._thread, "line", None)
        if line is None:
            yield
            return
        self._give_back()
        try:
            self.on_free()
            yield
        finally:
            self._take(self._returning, line)

    def _take(self, waiting: Turns[threading.Lock], line: Line) -> None:
        """Take a free slot, or wait in a line for one."""
        mine = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                mine = threading.Lock()
                mine.acquire()
                waiting.put(line, mine)
        if mine:
            mine.acquire()  # blocks until another worker hands its slot over
        self._thread.line = line

    def _give_back(self) -> None:
        self._thread.line = None
        with self._lock:
            if waiting := self._returning or self._new:
                line, next_one = waiting.take()
                waiting.give_back(line)  # a slot is held for moments only, so only the order of the turns matters
                next_one.release()
            else:
                self._free += 1
