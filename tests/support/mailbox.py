"""A queue with both its ends: the port has only the sender's, a suite for it needs the receiver's too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_server.orchestration.domain.ports import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """`receive` gives the task a message names, as `<tenant>/<task_id>`; None when there is no message yet."""

    queue: Queue
    receive: Callable[[], str | None]
