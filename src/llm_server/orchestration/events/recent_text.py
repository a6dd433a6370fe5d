"""The deltas of this process that are not stored yet, for the readers of a task's events."""

from __future__ import annotations

import threading

from llm_server.orchestration.domain.ports.deltas import Delta, LiveText
from llm_server.orchestration.domain.task import TaskRef

MAX_HELD = 20_000
"""How many deltas of a task are held. Later ones are shown once they are stored."""


class RecentText:
    """Holds each delta from its publication until it is stored. Any thread may call it."""

    def __init__(self, live: LiveText) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._held = dict[TaskRef, list[Delta]]()

    def publish(self, ref: TaskRef, delta: Delta) -> None:
        """Hold a delta, and tell the readers of its task."""
        with self._lock:
            held = self._held.setdefault(ref, [])
            if len(held) < MAX_HELD:
                held.append(delta)
        self._live.publish(ref, delta)

    def forget(self, ref: TaskRef, until: int | None = None) -> None:
        """Let go of the deltas with numbers up to `until`, which are stored; without it, of all."""
        with self._lock:
            left = [] if until is None else [d for d in self._held.get(ref, ()) if d.number > until]
            self._held.pop(ref, None)
            if left:
                self._held[ref] = left

    def of(self, ref: TaskRef, *, after: int) -> list[Delta]:
        """Return the held deltas of a task with numbers above `after`."""
        with self._lock:
            return [delta for delta in self._held.get(ref, ()) if delta.number > after]
