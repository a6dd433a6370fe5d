"""A task's mode, status and priority, and the lookup of names regardless of upper and lower case.

These are apart from the task, because the analysis needs them and must load fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Mode(StrEnum):
    """How a task is done."""

    CHAT = "Chat"
    AGENT = "Agent"
    PLAN = "Plan"


class Status(StrEnum):
    """The progress of a task. The last three are final; only a retry takes a task out of Failed."""

    QUEUED = "Queued"
    PROCESSING = "Processing"
    PLANNED = "Planned"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

    @property
    def is_active(self) -> bool:
        """Whether a worker has the task, or had it when its lease ended."""
        return self in (Status.PROCESSING, Status.PLANNED)


class Priority(StrEnum):
    """Which of a tenant's tasks comes first. `batch` tasks have every fifth turn while `interactive` ones wait."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


def known_spelling(name: str, known: Iterable[str]) -> str:
    """Return the known name that equals `name` in any mix of upper and lower case; otherwise `name` itself.

    Known names that differ only in case must be spelled exactly.
    """
    alike = [other for other in known if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else name
