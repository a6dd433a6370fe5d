"""A queue with its receiver: the port has only the sender's side, but its contract suite needs both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_server.orchestration.domain.ports.queue import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """`receive` returns the task of a message, as `<tenant>/<task_id>`; None if there is no message."""

    queue: Queue
    receive: Callable[[], str | None]
