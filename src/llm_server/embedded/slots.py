"""Limits how many workers compute at the same time.

Python runs one thread at a time. Threads that all have something to compute take the interpreter's lock from one another
at every wait for the disk or a socket, and these changes cost more than the work itself. A worker that waits for an
engine holds no slot, so a slow engine does not limit how many tasks are in progress.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Slots:
    """The slots of the workers. `on_free` is called when a worker begins to wait, so that another one can go on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._changed = threading.Condition()
        self.on_free: Callable[[], None] = lambda: None

    @property
    def any_free(self) -> bool:
        return self._taken < self._count

    def take(self, wait_s: float) -> bool:
        """Take a slot. Returns False if none has become free after `wait_s` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._taken < self._count, wait_s):
                return False
            self._taken += 1
            return True

    def give_back(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Give the worker's slot back for the block. After it, the worker goes on at once, even if no slot is free.

        The calls of a plan's parallel steps may give back more slots than their task has: another task uses them.
        """
        self.give_back()
        self.on_free()
        try:
            yield
        finally:
            with self._changed:
                self._taken += 1
