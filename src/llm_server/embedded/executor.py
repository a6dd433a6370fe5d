"""Runs use cases off the event loop: reads on reader threads, writes on the database's writer thread.

A use case that writes is one command of the writer: one transaction, which shares its commit with others.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf

from llm_server.api.executor import T, Watch
from llm_server.api.streams.feed import Feed, ReadEvents
from llm_server.embedded.loop_calls import LoopCalls, end
from llm_server.embedded.streams.hub import Hub
from llm_server.embedded.streams.live_feed import LiveFeed
from llm_server.embedded.watches import TaskWatch, Watches
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.storage.sqlite.connections.writer import Command
from llm_server.storage.sqlite.database import Database

MAX_READ_THREADS = 4
MAX_ANSWER_S = 5.0
"""How long a caller waits for the database. After that, the call is answered with 503."""
CHECKED_S = 1.0
"""How long a check of the file that found nothing wrong counts."""


class OffLoopExecutor:
    """The `Executor` of the embedded server, for one event loop. `hub` is told of the events that readers follow."""

    streams = True

    def __init__(
        self,
        database: Database,
        watches: Watches,
        *,
        hub: Hub | None = None,
        max_answer_s: float = MAX_ANSWER_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._watches = watches
        self._hub = hub or Hub()
        self._max_answer_s = max_answer_s
        self._readers = ThreadPoolExecutor(MAX_READ_THREADS, thread_name_prefix="reader")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="checker")
        self._clock_s = clock_s
        self._checked_until_s = -inf
        self._loop_calls = LoopCalls()

    async def read(self, use_case: Callable[[], T]) -> T:
        command, known = self._command(use_case)
        self._readers.submit(_run, command)
        return await self._outcome(command, known)

    async def write(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:
        command, known = self._command(use_case)
        self._database.put(command, line)
        return await self._outcome(command, known)

    def watch(self, ref: TaskRef) -> Watch:
        watch = TaskWatch(ref, self._watches)
        self._database.after_commit(partial(self._watches.add, watch))
        return watch

    def follow(self, read: ReadEvents, ref: TaskRef, after: int) -> Feed:
        return LiveFeed(self._hub, self.read, read, ref, after)

    async def check_store(self) -> None:
        """Check on a thread of its own: readers may be busy, and a file system that hangs must not stop the loop.

        A check that finds nothing counts for a second, or until a call meets a fault, because a thread waits up to
        100 ms for its turn while many requests begin.
        """
        if self._clock_s() < self._checked_until_s and not self._database.is_known_broken:
            return
        command, known = self._command(self._database.check)
        self._checker.submit(_run, command)
        await self._outcome(command, known)
        self._checked_until_s = self._clock_s() + CHECKED_S

    def close(self) -> None:
        """End the threads; what has not begun on them is dropped."""
        for threads in (self._readers, self._checker):
            threads.shutdown(wait=False, cancel_futures=True)

    def _command(self, use_case: Callable[[], T]) -> tuple[Command[T], Future[None]]:
        """Return a command that runs a use case, and a future that ends when the outcome is known."""
        loop = asyncio.get_running_loop()
        known: Future[None] = loop.create_future()
        return Command(use_case, partial(self._loop_calls.add, loop, partial(end, known))), known

    async def _outcome(self, command: Command[T], known: Future[None]) -> T:
        """Return the outcome of a command. Raises StorageUnavailable if it is not known in time."""
        timer = known.get_loop().call_later(self._max_answer_s, end, known)
        try:
            await known
        except asyncio.CancelledError:
            command.withdrawn = True
            raise
        finally:
            timer.cancel()
        return command.outcome()


def _run(command: Command[T]) -> None:
    if not command.withdrawn:
        command.run()
        command.finish()
