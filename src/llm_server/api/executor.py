"""How the routes run use cases: inline in a Lambda function, off the event loop in the embedded server.

In a Lambda function, one process serves one request at a time, so a use case may block the event loop. The embedded
server serves many requests on one loop, so it runs use cases on other threads (`embedded/executor.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from llm_server.api.polling import Pauses
from llm_server.api.streams.feed import Feed, PollingFeed, ReadEvents
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.intake import Accepted

T = TypeVar("T")


class Watch(Protocol):
    """Tells one caller when a task ends."""

    async def ended(self, wait_s: float) -> Accepted | None:
        """Wait until the task is final, for at most `wait_s` seconds, and return it. Call this once.

        Returns None if the time is over, the task was deleted, or the server is stopping.
        """
        ...


class Executor(Protocol):
    """Runs use cases of the service. What a use case raises is raised to the route.

    `streams` says whether a caller gets the parts of a response while the next ones are made.
    """

    streams: bool

    async def read(self, use_case: Callable[[], T]) -> T:
        """Run a use case that stores nothing. Raises StorageUnavailable if the database does not answer in time."""
        ...

    async def write(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:
        """Run a use case that may store something. When this returns, everything that it stored is durable.

        Use cases of different lines may take turns.

        Raises:
            StorageUnavailable: the database did not answer in time; it is unknown whether anything was stored.
        """
        ...

    def watch(self, ref: TaskRef) -> Watch:
        """Watch a task from now on. Call this inside the use case that stores the task, so that no end is missed."""
        ...

    def follow(self, read: ReadEvents, ref: TaskRef, after: int) -> Feed:
        """Follow the events of a task with numbers above `after`. Close the feed when it is not needed any more."""
        ...

    async def check_store(self) -> None:
        """Check the database's file, without reading the database.

        Raises:
            StorageBroken: this process knows that the file has to be repaired.
            StorageUnavailable: the file system does not answer in time.
        """
        ...


class InlineExecutor:
    """Runs use cases on the caller's thread, and polls the store for the events and the end of a task."""

    streams = False

    def __init__(self, service: Service) -> None:
        self._service = service

    async def read(self, use_case: Callable[[], T]) -> T:
        return use_case()

    async def write(self, use_case: Callable[[], T], line: Line = OF_NO_TENANT) -> T:  # noqa: ARG002 - part of the port
        return use_case()

    def watch(self, ref: TaskRef) -> Watch:
        return _Polling(self._service, ref)

    def follow(self, read: ReadEvents, ref: TaskRef, after: int) -> Feed:  # noqa: ARG002 - part of the port
        return PollingFeed(read, after)

    async def check_store(self) -> None:
        """Do nothing: DynamoDB has no file that could be damaged or removed."""


class _Polling:
    """Reads a task's state after 20 ms, then at growing intervals of up to 1 s.

    A failed read is ignored, because the task is already accepted, and a caller who got an error would send it again.
    """

    def __init__(self, service: Service, ref: TaskRef) -> None:
        self._service = service
        self._ref = ref

    async def ended(self, wait_s: float) -> Accepted | None:
        pauses = Pauses(wait_s)
        while await pauses.sleep():
            try:
                with suppress(StorageUnavailable):
                    if self._service.is_final(self._ref):
                        return self._read()
            except TaskNotFound:
                return None
        return None

    def _read(self) -> Accepted | None:
        """Read the task once more. Returns None if it was retried meanwhile."""
        snapshot = self._service.get(self._ref)
        return Accepted(task=snapshot.task, result=snapshot.result) if snapshot.task.status.is_final else None
