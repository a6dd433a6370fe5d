"""Wakes workers. A message is only a hint: if it cannot be sent, the sweep wakes the task later."""

from __future__ import annotations

import logging

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.queue import Queue
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import Task, TaskRef

_log = logging.getLogger(__name__)


class WakeUps:
    """Sends wake-ups through the queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def send(self, ref: TaskRef, priority: Priority, *, delay_s: int = 0) -> bool:
        """Wake a worker after `delay_s` seconds. Returns False if the queue cannot be reached."""
        try:
            self._queue.send(ref, delay_s=delay_s, priority=priority)
        except StorageUnavailable:
            _log.warning("wake-up not sent", extra={"task_id": ref.task_id})
            return False
        return True

    def waiting(self) -> int:
        """Return about how many messages wait or are delayed."""
        return self._queue.depth()


def log_fields(task: Task) -> dict[str, object]:
    """Return the fields that every log line about a task has."""
    return {"task_id": task.task_id, "status": task.status.value, "attempt": task.fence}
