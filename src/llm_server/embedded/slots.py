"""Limits how many workers compute at the same time.

Python runs one thread at a time. If hundreds of workers get their answers together and all go on at once, the thread of
the event loop waits for its turn behind them. A worker that waits for an engine or for the steps of its plan has no
slot, so slots do not limit how many tasks are in progress.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Slots:
    """The slots of the workers. Those that were waiting for an engine get one before those that have a new task.

    `on_free` is called when a worker begins to wait, so that another one can be started.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._returning = deque[threading.Lock]()
        self._new = deque[threading.Lock]()
        self._thread = threading.local()
        """Its attribute `has_slot` says whether this thread has a slot."""
        self.on_free: Callable[[], None] = lambda: None

    @property
    def any_free(self) -> bool:
        return self._free > 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, and hold it for the block."""
        self._take(self._new)
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Give this thread's slot back for the block, and wait for one after it.

        Does nothing on threads that have no slot: those of a plan's parallel steps.
        """
        if not getattr(self._thread, "has_slot", False):
            yield
            return
        self._give_back()
        try:
            self.on_free()
            yield
        finally:
            self._take(self._returning)

    def _take(self, line: deque[threading.Lock]) -> None:
        """Take a free slot, or wait in a line for one."""
        mine = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                mine = threading.Lock()
                mine.acquire()
                line.append(mine)
        if mine:
            mine.acquire()  # blocks until another worker hands its slot over
        self._thread.has_slot = True

    def _give_back(self) -> None:
        self._thread.has_slot = False
        with self._lock:
            if line := self._returning or self._new:
                line.popleft().release()
            else:
                self._free += 1
