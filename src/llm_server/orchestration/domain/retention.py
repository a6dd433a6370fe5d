"""How long a task and its texts are kept after the task has ended."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from llm_server.orchestration.domain.task import DAY_MS, Task

SLACK_MS = 8 * DAY_MS
"""How much longer texts are kept than their task, because they are written before its end is known.

Once a task has been open for half of this time, its texts are renewed every day, so that they do not expire first: by
the sweep, or by the worker if the sweep never finds the task due.
"""
DELETED_KEPT_MS = 2 * DAY_MS
"""How long the store remembers that a task was deleted: longer than an Idempotency-Key is bound to it."""

SPENDING_KEPT_MS = 40 * DAY_MS
"""How long the spending of a tenant or a key on one day is kept: longer than any month."""


class Retention(Struct, frozen=True, kw_only=True):
    """How long tasks are kept: a task expires `keep_ms` after its end, and is no longer shown; None means never."""

    clock: Callable[[], int] = lambda: 0
    keep_ms: int | None = None

    def of_text(self, written_ms: int) -> int | None:
        """Return the time until which a text is kept at least, in Unix milliseconds; None means for ever."""
        return None if self.keep_ms is None else written_ms + SLACK_MS + self.keep_ms

    def has_conversation_expired(self, updated_ms: int) -> bool:
        """Return whether the record of a conversation, which got its last task at `updated_ms`, has expired."""
        until_ms = self.of_text(updated_ms)
        return until_ms is not None and until_ms <= self.clock()

    def of_task(self, task: Task) -> int | None:
        """Return when a final task expires, in Unix milliseconds; None means never."""
        return None if self.keep_ms is None or task.finished_ms is None else task.finished_ms + self.keep_ms

    def has_expired(self, task: Task) -> bool:
        until_ms = self.of_task(task)
        return until_ms is not None and until_ms <= self.clock()


def is_to_be_renewed(task: Task, now_ms: int) -> bool:
    """Return whether a claim must renew a task's texts: the first claim of a UTC day, if it is over 4 days old.

    The sweep does not see a task that waits for an engine, because it is claimed and released before it is due.
    """
    return now_ms - task.created_ms > SLACK_MS // 2 and now_ms // DAY_MS > task.updated_ms // DAY_MS
