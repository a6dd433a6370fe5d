"""An executor that notes how it is used, and a service that must not be called without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llm_server.api.executor import Watch
from llm_server.api.streams.feed import Feed, PollingFeed, ReadEvents
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.orchestration.events.history import EventPage
from llm_server.orchestration.tasks.intake import Accepted

T = TypeVar("T")


class EndOfWatch:
    """A watch whose time is over at once."""

    async def ended(self, wait_s: float) -> Accepted | None:
        return None


class _Feed(PollingFeed):
    """Reads once, by the executor."""

    def __init__(self, run: RecordingExecutor, read: ReadEvents, after: int) -> None:
        super().__init__(lambda number: run._run("read", lambda: read(number)), after)

    async def next(self, wait_s: float) -> EventPage:
        return await super().next(0)


class RecordingExecutor:
    """Runs use cases inline. `kinds` are "read" and "write" in the order of the calls."""

    streams = False

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.is_running = False
        self.watched: list[tuple[TaskRef, bool]] = []
        """The watched tasks, each with whether it was watched inside a use case."""

    async def read(self, use_case: Callable[[], T]) -> T:
        return self._run("read", use_case)

    async def write(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:
        return self._run("write", use_case)

    def watch(self, ref: TaskRef) -> Watch:
        self.watched.append((ref, self.is_running))
        return EndOfWatch()

    def follow(self, read: ReadEvents, ref: TaskRef, after: int) -> Feed:
        return _Feed(self, read, after)

    async def check_store(self) -> None:
        """All is well."""

    def _run(self, kind: str, use_case: Callable[[], T]) -> T:
        self.kinds.append(kind)
        self.is_running = True
        try:
            return use_case()
        finally:
            self.is_running = False


class OnlyInside:
    """Stands for a store: every method fails unless the executor runs a use case."""

    def __init__(self, inner: Any, run: RecordingExecutor) -> None:
        self._inner = inner
        self._run = run

    def __getattr__(self, name: str) -> Any:
        assert self._run.is_running, f"{name} of the store is called outside the executor"
        return getattr(self._inner, name)
