"""Whose turn it is to write to a SQLite file: that of one connection at a time, in the order they came.

SQLite lets those who wait for its write lock try again at random, and gives up after a while: with 64 workers on a slow
disk whoever came by chance waited for seconds, or in vain. Processes still meet there; threads of one meet here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary


class Turns:
    """A lock that goes to those who wait in their order; a `threading.Lock` may be had by who comes last.

    Who is `brief`, and does not wait for the disk, goes first: it holds nobody up.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._brief, self._others = deque[threading.Lock](), deque[threading.Lock]()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many wait."""
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
            mine.acquire()  # until it is handed over
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
    """The turns of a file, given by its resolved path: the same for every connection of this process.

    Known here, not handed about by those who open it: one that forgot would be in the others' way.
    """
    with _looking:
        turns = _of_files.get(file)
        if turns is None:
            turns = _of_files[file] = Turns()
        return turns
