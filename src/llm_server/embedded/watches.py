"""Tells callers that wait for a task (`Prefer: wait`) when it ends, so that nothing polls the database."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Future
from functools import partial

from llm_server.embedded.loop_calls import LoopCalls, end
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.intake import Accepted


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
        watch.tell(None)

    def remove(self, watch: TaskWatch) -> None:
        """Tell a watch nothing more."""
        with self._lock:
            others = [other for other in self._watches.pop(watch.ref, ()) if other is not watch]
            if others:
                self._watches[watch.ref] = others

    def tell_end(self, task: Task, result: str | None) -> None:
        """Tell all watches of a task that it is final now."""
        with self._lock:
            watches = self._watches.pop(task.ref, ())
        for watch in watches:
            watch.tell(Accepted(task=task, result=result))

    def stop(self) -> None:
        """Let all callers that wait go, and each later caller at once: the server is stopping."""
        with self._lock:
            self._is_stopping = True
            watches = [watch for each in self._watches.values() for watch in each]
            self._watches.clear()
        for watch in watches:
            watch.tell(None)


class TaskWatch:
    """The `Watch` of one caller. It may be told on any thread, before or while the caller waits on the event loop."""

    def __init__(self, ref: TaskRef, watches: Watches) -> None:
        self.ref = ref
        self._watches = watches
        self._lock = threading.Lock()
        self._told: Future[None] | None = None
        self._was_told = False
        self._ended: Accepted | None = None

    async def ended(self, wait_s: float) -> Accepted | None:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._was_told:
                return self._ended
            told: Future[None] = loop.create_future()
            self._told = told
        timer = loop.call_later(wait_s, end, told)
        try:
            await told
        finally:
            timer.cancel()
            if not self._was_told:
                self._watches.remove(self)
        return self._ended

    def tell(self, ended: Accepted | None) -> None:
        """Let the caller go on, with the final task or without."""
        with self._lock:
            self._ended, self._was_told = ended, True
            told = self._told
        if told is not None:
            self._watches.loop_calls.add(told.get_loop(), partial(end, told))
