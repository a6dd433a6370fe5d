"""Limit the retries of a process: when many calls fail, retrying each of them would double the load."""

from __future__ import annotations

import threading
from collections import deque

from llm_server.orchestration.domain.ports.clock import Clock

MAX_CALLS_A_STEP = 3
"""How many engine calls are made at most to get one answer."""
MAX_CALLS_WITH_SCHEMA = 4
"""As above, after an answer that broke the caller's schema: two engines may each answer and repair."""
WINDOW_S = 60
RETRIES_SHARE = 0.2
RETRIES_BURST = 10


class RetryBudget:
    """The retries of one process in the last minute: at most a fifth of its calls, but at least ten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: deque[int] = deque()
        self._retries: deque[int] = deque()

    def has_room(self) -> bool:
        """Return whether another retry is within the budget. Concurrent calls may exceed it by a few retries."""
        with self._lock:
            self._forget()
            return len(self._retries) < max(RETRIES_BURST, int(RETRIES_SHARE * len(self._calls)))

    def count(self, *, retry: bool) -> None:
        """Count a call that is about to be made."""
        now_ms = self._clock()
        with self._lock:
            self._forget()
            self._calls.append(now_ms)
            if retry:
                self._retries.append(now_ms)

    def _forget(self) -> None:
        before_ms = self._clock() - WINDOW_S * 1000
        for times in (self._calls, self._retries):
            while times and times[0] <= before_ms:
                times.popleft()
