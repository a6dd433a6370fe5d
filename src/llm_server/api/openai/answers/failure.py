"""A task that has no answer, as an error of Chat Completions, whose objects have no status."""

from __future__ import annotations

from llm_server.api.openai.errors import DialectError, read_at
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status


def failure(snapshot: Snapshot) -> DialectError:
    """Return the error for a task that is not Completed. The same call would make another task."""
    task = snapshot.task
    if task.status is Status.FAILED:
        return DialectError(502, "task_failed", task.error or "The task failed.", task_id=task.task_id)
    if task.status is Status.CANCELLED:
        return DialectError(409, "task_cancelled", "The task was cancelled.", task_id=task.task_id)
    sentence = f"The task is not finished, and goes on. {read_at(task.task_id)}"
    return DialectError(504, "not_finished", sentence, task_id=task.task_id)
