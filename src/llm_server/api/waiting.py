"""Submits a task, and holds the response until it is final, as `Prefer: wait=N` (RFC 7240) asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.access.repeats import Repeatable
from llm_server.orchestration.domain.api_key import Caller
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.turns import Line
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.intake import Accepted
from llm_server.orchestration.tasks.new_task import NewTask

if TYPE_CHECKING:
    from llm_server.api.executor import Executor, Watch

MAX_WAIT_S = 25
ANSWERING_S = 3
"""Seconds of a Lambda invocation that are reserved for reading the task once more and responding."""
MAX_RETRY_S = 30
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?:[,;]|$)", re.IGNORECASE)


async def submit(
    service: Service, run: Executor, caller: Caller, new: NewTask, once: str | Repeatable | None, *, waits: bool
) -> tuple[Accepted, Watch | None]:
    """Submit a task, as `Service.submit_once`. If the caller waits and the task is not final, return its watch, too.

    Raises the errors of `Service.submit_once`.
    """

    def accept() -> tuple[Accepted, Watch | None]:
        accepted = service.submit_once(caller.tenant, new, once, payer=caller.payer)
        return accepted, run.watch(accepted.task.ref) if waits and not accepted.task.status.is_final else None

    return await run.write(accept, Line(caller.tenant, new.priority))


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


def retry_after_s(task: Task, now_ms: int) -> int:
    """Return the seconds until the next poll: the age of the task, from 1 to 30, so that polls become rarer."""
    return max(1, min((now_ms - task.created_ms) // 1000, MAX_RETRY_S))
