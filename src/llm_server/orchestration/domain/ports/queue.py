"""The port for wake-ups, and the message that a worker gets."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import Line


class Message(Struct, frozen=True):
    """A wake-up for a task, with the task's priority."""

    ref: TaskRef
    priority: Priority = Priority.INTERACTIVE

    @property
    def line(self) -> Line:
        """Where the message waits for its turn."""
        return Line(self.ref.tenant, self.priority)


class Queue(Protocol):
    """Wake-ups for workers. A message may be lost, doubled, late or out of order.

    The queue favours tenants of which workers have few messages, and a tenant's interactive tasks over its batch tasks.

    Every method may raise StorageUnavailable.
    """

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        """Wake a worker for a task of this priority after `delay_s` seconds (0 to 900)."""
        ...

    def depth(self) -> int:
        """Return about how many messages wait or are delayed. A message that a worker has taken does not count."""
        ...
