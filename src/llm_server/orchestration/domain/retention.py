"""How long what is stored about a task is kept after its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_server.orchestration.domain.task import DAY_MS, Task

SLACK_MS = 8 * DAY_MS
"""How much longer than a task its texts stay: they are written before its end is known. Once a task has been open for
half of this, they are to stay longer every day: the sweep sees to it, or the worker of a task that is never due."""
DELETED_KEPT_MS = 2 * DAY_MS
"""How long a deleted task is known to be deleted: longer than an Idempotency-Key stands for it."""

SPENDING_KEPT_MS = 40 * DAY_MS
"""How long is known what a tenant or a key has spent on a day: longer than any month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`keep_ms` after its end a task has expired, and is shown no more; None keeps it for ever."""

    clock: Callable[[], int] = lambda: 0
    keep_ms: int | None = None

    def of_text(self, written_ms: int) -> int | None:
        """Until when a text is kept at least, Unix milliseconds."""
        return None if self.keep_ms is None else written_ms + SLACK_MS + self.keep_ms

    def of_task(self, task: Task) -> int | None:
        """When a final task expires, Unix milliseconds."""
        return None if self.keep_ms is None or task.finished_ms is None else task.finished_ms + self.keep_ms

    def has_expired(self, task: Task) -> bool:
        until_ms = self.of_task(task)
        return until_ms is not None and until_ms <= self.clock()


def is_to_be_renewed(task: Task, now_ms: int) -> bool:
    """Whether a claim is to have a task's texts stay longer: its first of a UTC day, once it has been open for long.

    A task that waits for an engine is claimed and released before it is ever due: the sweep does not see it.
    """
    return now_ms - task.created_ms > SLACK_MS // 2 and now_ms // DAY_MS > task.updated_ms // DAY_MS
