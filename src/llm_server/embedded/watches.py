"""Tells callers that wait for a task (`Prefer: wait`) when it ends, so that nothing polls the database."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Future
from functools import partial

from llm_server.embedded.loop_calls import LoopCalls, end
from llm_server.orchestration.domain.task import TaskRef


class Watches:
    """The watches of one event loop's callers, by task. The methods may be called on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[TaskRef, list[TaskWatch]] = {}
        self._is_stopping = False
        self.loop_calls = LoopCalls()

    def add(self, watch: TaskWatch) -> None:
        """Tell a watch when its task ends."""
        with self._lock:
            if not self._is_stopping:
                self._watches.setdefault(watch.ref, []).append(watch)
                return
        watch.tell(has_ended=False)

    def remove(self, watch: TaskWatch) -> None:
        """Tell a watch nothing more."""
        with self._lock:
            others = [other for other in self._watches.pop(watch.ref, ()) if other is not watch]
            if others:
                self._watches[watch.ref] = others

    def tell_end(self, ref: TaskRef) -> None:
        """Tell all watches of a task that it is final or was deleted."""
        with self._lock:
            watches = self._watches.pop(ref, ())
        for watch in watches:
            watch.tell(has_ended=True)

    def stop(self) -> None:
        """Let all callers that wait go, and each later caller at once: the server is stopping."""
        with self._lock:
            self._is_stopping = True
            watches = [watch for each in self._watches.values() for watch in each]
            self._watches.clear()
        for watch in watches:
            watch.tell(has_ended=False)


class TaskWatch:
    """The `Watch` of one caller. It may be told on any thread, before or while the caller waits on the event loop."""

    def __init__(self, ref: TaskRef, watches: Watches) -> None:
        self.ref = ref
        self._watches = watches
        self._lock = threading.Lock()
        self._has_ended: bool | None = None
        self._told: Future[None] | None = None

    async def ended(self, wait_s: float) -> bool:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._has_ended is not None:
                return self._has_ended
            told: Future[None] = loop.create_future()
            self._told = told
        timer = loop.call_later(wait_s, end, told)
        try:
            await told
        finally:
            timer.cancel()
            self._watches.remove(self)
        return bool(self._has_ended)

    def tell(self, *, has_ended: bool) -> None:
        """Let the caller go on."""
        with self._lock:
            self._has_ended = has_ended
            told = self._told
        if told is not None:
            self._watches.loop_calls.add(told.get_loop(), partial(end, told))
