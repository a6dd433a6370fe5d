"""How those who work on a task hear that its caller has cancelled it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_server.orchestration.domain.errors import TaskCancelled

LOOK_MS = 5_000
"""How old what is known of a task may be when the next engine call begins."""


class Cancellation:
    """One claim's ear; may be told and asked by any thread.

    `look` asks the store whether the task has ended. That costs a call, so it is done only before an engine call, and
    only when neither a save nor a look told within the last 5 s that the task goes on: a claim's first call needs none.
    What follows a call that failed or did not do is asked for again: that call took its time.
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
        """Break off what is under way, and let nothing new begin; told again, it does nothing."""
        with self._lock:
            if self._told:
                return
            self._told = True
            for break_off in self._under_way.values():
                break_off()

    def goes_on(self) -> None:
        """Note that the task was seen to be the claim's own just now."""
        self._known_ms = self._clock()

    def check(self, *, anew: bool = False) -> None:
        """Raise TaskCancelled when the task has been cancelled, as far as is known or, `anew`, as a look now tells."""
        is_known = 0 <= self._clock() - self._known_ms <= LOOK_MS  # the clock may have been set back
        if not self._told and (anew or not is_known):
            if self._look():
                self.tell()
            self.goes_on()
        if self._told:
            raise TaskCancelled

    @contextmanager
    def breaking_off(self, break_off: Callable[[], None]) -> Iterator[None]:
        """Inside, `break_off` is called at most once, by whoever tells; it must return at once and not raise."""
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
