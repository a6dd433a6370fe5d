"""How the work on a task learns that its caller has cancelled the task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.orchestration.domain.errors import TaskCancelled

LOOK_MS = 5_000
"""How old the last sign that a task goes on may be when the next engine call begins."""


class Cancellation:
    """Says whether the task of one claim was cancelled. Any thread may use it.

    `look` asks the store whether the task has ended. That costs a read, so it happens only before an engine call, and
    only if no save and no other look has shown within the last 5 s that the task goes on. The first call of a claim
    needs no look. A call that follows a failed or faulty one always looks (`anew`), because that one took time.
    """

    def __init__(self, look: Callable[[], bool] = lambda: False, clock: Callable[[], int] = lambda: 0) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._told = False
        self._known_ms = clock()
        self._under_way: dict[object, Callable[[], None]] = {}

    @property
    def told(self) -> bool:
        return self._told

    def tell(self) -> None:
        """Abort the calls in progress and let no new one begin. Calling this again has no further effect."""
        with self._lock:
            if self._told:
                return
            self._told = True
            for break_off in self._under_way.values():
                break_off()

    def goes_on(self) -> None:
        """Note that the task still belonged to the claim just now."""
        self._known_ms = self._clock()

    def check(self, *, anew: bool = False) -> None:
        """Raise TaskCancelled if the task was cancelled. `anew`: ask the store even if the last look is recent."""
        is_known = 0 <= self._clock() - self._known_ms <= LOOK_MS  # the clock may have been set back
        if not self._told and (anew or not is_known):
            if self._look():
                self.tell()
            self.goes_on()
        if self._told:
            raise TaskCancelled

    @contextmanager
    def breaking_off(self, break_off: Callable[[], None]) -> Iterator[None]:
        """Call `break_off` if the task is cancelled while the block runs: at most once, from any thread.

        `break_off` must return at once and must not raise.
        """
        token = object()
        with self._lock:
            if self._told:
                raise TaskCancelled
            self._under_way[token] = break_off
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[token]
