"""`Prefer: wait=N` (RFC 7240): hold the response until a task is final."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from llm_server.orchestration.domain.errors import StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.service import Service

MAX_WAIT_S = 25
ANSWERING_S = 3
"""Seconds of a Lambda invocation that are reserved for reading the task once more and responding."""
POLL_FIRST_S = 0.02
MAX_POLL_S = 1.0
MAX_RETRY_S = 30
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?:[,;]|$)", re.IGNORECASE)


def wished_s(prefer: str) -> int:
    """Return the seconds a Prefer header asks to wait, at most 25; 0 if it does not ask to wait."""
    match = _WAIT.search(prefer)
    return min(int(match[1]), MAX_WAIT_S) if match else 0


def possible_s(wish_s: int, scope: Mapping[str, Any]) -> float:
    """Return how many seconds a call can wait; in a Lambda function, at most the time that is left less ANSWERING_S."""
    context = scope.get("aws.context")  # set by Mangum
    if context is None:
        return wish_s
    left_s: float = context.get_remaining_time_in_millis() / 1000
    return min(wish_s, max(0, left_s - ANSWERING_S))


async def until_final(service: Service, ref: TaskRef, wait_s: float, stopping: Callable[[], bool]) -> Snapshot | None:
    """Wait until a task is final; read it after 20 ms, then at growing intervals of up to 1 s.

    Return None if the task is not final after `wait_s` seconds, the server is stopping, or the task was deleted. A
    failed read is ignored, because the task is already accepted, and a caller who got an error would send it again.
    """
    loop = asyncio.get_running_loop()
    end, pause = loop.time() + wait_s, POLL_FIRST_S
    while (left := end - loop.time()) > 0 and not stopping():
        await asyncio.sleep(min(pause, left))
        try:
            with suppress(StorageUnavailable):
                if service.is_final(ref):
                    return service.get(ref)
        except TaskNotFound:
            return None
        pause = min(pause * 1.5, MAX_POLL_S)
    return None


def retry_after_s(task: Task, now_ms: int) -> int:
    """Return the seconds until the next poll: the age of the task, from 1 to 30, so that polls become rarer."""
    return max(1, min((now_ms - task.created_ms) // 1000, MAX_RETRY_S))
