"""What the analysis decides and the task keeps; apart, so that the analysis loads without the task."""

from enum import StrEnum


class Mode(StrEnum):
    """How a task is done."""

    CHAT = "Chat"
    AGENT = "Agent"
    PLAN = "Plan"
