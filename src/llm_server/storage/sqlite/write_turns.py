"""Lets the connections of a process write to a SQLite file one after the other, in the order of their requests.

Without this, connections wait for SQLite's own write lock. SQLite lets them try again at random moments and gives up
after a time-out, so with 64 workers on a slow disk some waited for seconds or failed. SQLite's lock still orders the
writes of different processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary


class Turns:
    """A lock that is granted in the order of the requests; a `threading.Lock` does not guarantee an order.

    A `brief` writer, which does not wait for the disk, goes before all others, because it hardly delays them.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._brief, self._others = deque[threading.Lock](), deque[threading.Lock]()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many writers are waiting."""
        return len(self._brief) + len(self._others)

    @contextmanager
    def turn(self, *, brief: bool) -> Iterator[None]:
        with self._guard:
            mine = threading.Lock() if self._is_taken else None
            self._is_taken = True
            if mine:
                mine.acquire()
                (self._brief if brief else self._others).append(mine)
        if mine:
            mine.acquire()  # blocks until the writer before hands over
        try:
            yield
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._guard:
            waiting = self._brief or self._others
            if waiting:
                waiting.popleft().release()
            else:
                self._is_taken = False


_of_files: WeakValueDictionary[Path, Turns] = WeakValueDictionary()
_looking = threading.Lock()


def turns_of(file: Path) -> Turns:
    """Return the turns of a file, given by its resolved path. Every connection of this process gets the same object.

    It is looked up here and not passed by callers, so that no connection can be opened without it.
    """
    with _looking:
        turns = _of_files.get(file)
        if turns is None:
            turns = _of_files[file] = Turns()
        return turns
