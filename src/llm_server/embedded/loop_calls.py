"""Calls functions on the event loop from other threads."""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from contextlib import suppress


class LoopCalls:
    """Hands functions over to one event loop. What is handed over together wakes the loop once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def add(self, loop: AbstractEventLoop, call: Callable[[], None]) -> None:
        """Call `call` on the loop soon. Does nothing if the loop is closed, because the server has stopped then."""
        with self._lock:
            self._calls.append(call)
            if len(self._calls) > 1:  # the loop is already woken
                return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._make)

    def _make(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            call()


def end(future: Future[None]) -> None:
    """End a future, unless it has ended. Call this on its event loop."""
    if not future.done():
        future.set_result(None)
