"""The port for wake-ups."""

from __future__ import annotations

from typing import Protocol

from llm_server.orchestration.domain.task import TaskRef


class Queue(Protocol):
    """Wake-ups for workers. A message may be lost, doubled, late or out of order.

    Every method may raise StorageUnavailable.
    """

    def send(self, ref: TaskRef, *, delay_s: int = 0) -> None:
        """Wake a worker for a task after `delay_s` seconds (0 to 900)."""
        ...

    def depth(self) -> int:
        """Return about how many messages wait or are delayed. A message that a worker has taken does not count."""
        ...
