"""Limits how many workers compute at the same time.

Python runs one thread at a time. If hundreds of workers get their answers together and all go on at once, the thread of
the event loop waits for its turn behind them. A worker that waits for an engine or for the steps of its plan has no
slot, so slots do not limit how many tasks are in progress.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line, Turns

RETURNING, NEW = Priority.INTERACTIVE, Priority.BATCH
"""At which priority a worker waits in the line of its tenant."""


class Slots:
    """The slots of the workers, given by turns between tenants (`Turns`).

    Of a tenant's workers, those that were waiting for an engine get one before those that have a new task, except that
    a new one comes after four of them.

    `on_free` is called when a worker begins to wait, so that another one can be started.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting = Turns[threading.Lock]()
        self._thread = threading.local()
        """Its attribute `tenant` is that of a thread's task while the thread has a slot, else None or unset."""
        self.on_free: Callable[[], None] = lambda: None

    @property
    def any_free(self) -> bool:
        return self._free > 0

    @contextmanager
    def slot(self, line: Line = OF_NO_TENANT) -> Iterator[None]:
        """Wait for a slot with the others of the line's tenant, and hold it for the block."""
        self._take(Line(line.tenant, NEW))
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Give this thread's slot back for the block, and wait for one after it.

        Does nothing on threads that have no slot: those of a plan's parallel steps.
        """
        tenant: str | None = getattr(self._thread, "tenant", None)
        if tenant is None:
            yield
            return
        self._give_back()
        try:
            self.on_free()
            yield
        finally:
            self._take(Line(tenant, RETURNING))

    def _take(self, line: Line) -> None:
        """Take a free slot, or wait in a line for one."""
        mine = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.put(line, mine)
        if mine:
            mine.acquire()  # blocks until another worker hands its slot over
        self._thread.tenant = line.tenant

    def _give_back(self) -> None:
        self._thread.tenant = None
        with self._lock:
            if self._waiting:
                line, next_one = self._waiting.take()
                self._waiting.give_back(line)  # a slot is held for moments only, so only the order of the turns matters
                next_one.release()
            else:
                self._free += 1
