"""The cancellation of a task: tells the worker that its caller has cancelled the task, and aborts running calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.orchestration.domain.errors import TaskCancelled

MAX_CHECK_AGE_MS = 5_000
"""How old the last check that the task has not ended may be when the next engine call begins."""


class Cancellation:
    """Whether the task of one claim was cancelled. Any thread may use it.

    `has_ended` asks the store whether the task has ended. This costs a read, so it is called only before an engine
    call, and only if no save and no other check has shown within the last 5 s that the task has not ended. The first
    call of a claim needs no check. A call that follows a failed or faulty one needs none either: it is announced by a
    save.
    """

    def __init__(self, has_ended: Callable[[], bool] = lambda: False, clock: Callable[[], int] = lambda: 0) -> None:
        self._has_ended = has_ended
        self._clock = clock
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._checked_ms = clock()
        self._running: dict[object, Callable[[], None]] = {}

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def cancel(self) -> None:
        """Abort the calls in progress, and let no new call begin. Calling this again has no further effect."""
        with self._lock:
            if self._is_cancelled:
                return
            self._is_cancelled = True
            for abort in self._running.values():
                abort()

    def mark_checked(self) -> None:
        """Record that the store has just shown that the task still belongs to the claim."""
        self._checked_ms = self._clock()

    def check(self) -> None:
        """Raise TaskCancelled if the task was cancelled. Ask the store only if no check is recent."""
        is_recent = 0 <= self._clock() - self._checked_ms <= MAX_CHECK_AGE_MS  # negative if the clock was set back
        if not self._is_cancelled and not is_recent:
            if self._has_ended():
                self.cancel()
            self.mark_checked()
        if self._is_cancelled:
            raise TaskCancelled

    @contextmanager
    def on_cancel(self, abort: Callable[[], None]) -> Iterator[None]:
        """Call `abort` if the task is cancelled while the block runs: at most once, from any thread.

        `abort` must return at once and must not raise.

        Raises:
            TaskCancelled: the task was cancelled before the block began.
        """
        token = object()
        with self._lock:
            if self._is_cancelled:
                raise TaskCancelled
            self._running[token] = abort
        try:
            yield
        finally:
            with self._lock:
                del self._running[token]
