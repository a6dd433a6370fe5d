"""How a task is done (mode) and how far it is (status).

Apart from the task, so that the analysis loads without it.
"""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How a task is done."""

    CHAT = "Chat"
    AGENT = "Agent"
    PLAN = "Plan"


class Status(StrEnum):
    """Where a task is; the last three are final, but for a retry of what has Failed."""

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
        """A worker has it, or had it when its lease ended."""
        return self in (Status.PROCESSING, Status.PLANNED)
