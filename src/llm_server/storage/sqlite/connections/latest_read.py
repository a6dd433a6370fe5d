"""What the writer reads just before a commit, so that callers can have it from memory.

While a group of commands is carried out, a reader thread waits for its turn, for longer than `GET /metrics` may take.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_AGE_S = 0.05
"""How old a result may be. For this long it may miss what another process has written."""
ASKED_S = 1.0
"""For how long after a call of `known` the writer goes on reading. Without calls, commits cost nothing more."""

_log = logging.getLogger(__name__)


class LatestRead(Generic[T]):
    """A read that the writer makes inside its transaction, and the result after the commit.

    Any thread may call `known`. It has every write that this process has acknowledged, or has read from the file. No
    lock is used, because the event loop would wait for it; each attribute is set in one step.
    """

    def __init__(
        self, read: Callable[[sqlite3.Connection], T], *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock_s = clock_s
        self._asked_s = -inf
        self._known: tuple[float, T] | None = None
        """When the read began, and its result."""
        self._uncommitted: tuple[float, T] | None = None
        """The same, while a commit is under way."""

    def known(self) -> T | None:
        """Return the result of the last commit, if it is at most 50 ms old; None if the file must be read."""
        self._asked_s = now_s = self._clock_s()
        known = self._known
        return known[1] if known is not None and now_s - known[0] <= MAX_AGE_S else None

    def before_commit(self, connection: sqlite3.Connection) -> None:
        """Read, if `known` was called in the last second. A read that fails does not fail the commit."""
        now_s = self._clock_s()
        if now_s - self._asked_s > ASKED_S:
            self.forget()
            return
        try:
            self._uncommitted = now_s, self._read(connection)
        except Exception:  # such as an engine's record of a newer version: tasks must still be stored
            _log.exception("nothing read before a commit")
            self._asked_s = -inf  # so that the log says it at most once for each call
            self.forget()

    def committed(self) -> None:
        """Make known what was read. Call this before any caller learns of the commit."""
        self._known, self._uncommitted = self._uncommitted, None

    def forget(self) -> None:
        """Know nothing until the next commit."""
        self._known = self._uncommitted = None

    def note_read(self) -> None:
        """Note that the file was read. During a commit, the read may have seen more than `known` would return."""
        if self._uncommitted is not None:
            self._known = None
