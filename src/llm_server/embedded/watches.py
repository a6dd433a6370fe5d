"""Tells callers that wait for a task (`Prefer: wait`) when it ends, so that nothing polls the database."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Future
from functools import partial

from llm_server.embedded.loop_calls import LoopCalls, end
from llm_server.embedded.streams.by_task import ByTask
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.intake import Accepted


class Watches:
    """The watches of one event loop's callers, by task. The methods may be called on any thread."""

    def __init__(self) -> None:
        self._watches = ByTask[TaskWatch]()
        self.loop_calls = LoopCalls()

    def add(self, watch: TaskWatch) -> None:
        """Tell a watch when its task ends."""
        if not self._watches.add(watch):
            watch.tell(None)

    def remove(self, watch: TaskWatch) -> None:
        """Tell a watch nothing more."""
        self._watches.remove(watch)

    def tell_end(self, task: Task, result: str | None) -> None:
        """Tell all watches of a task that it is final now."""
        for watch in self._watches.pop(task.ref):
            watch.tell(Accepted(task=task, result=result))

    def stop(self) -> None:
        """Let all callers that wait go, and each later caller at once: the server is stopping."""
        for watch in self._watches.stop():
            watch.tell(None)

    @property
    def count(self) -> int:
        """How many callers wait."""
        return self._watches.count


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
