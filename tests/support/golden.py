"""Compare what 0.1.0 showed of its records with the API of today."""

from __future__ import annotations

from typing import Any

RENAMED = {
    "created": "accepted",
    "analysed": "routed",
    "step finished": "step.completed",
    "step failed": "step.failed",
}
"""Names of events in 0.1.0, and their names today."""
DROPPED = {"engine failed over"}
"""Events of 0.1.0 that were replaced by `attempt.failed`."""
ADDED = {"attempt.failed", "awaiting_approval"}
ADDED_FIELDS = {
    "conversation_id",
    "demonstration",
    "fault",
    "previous_task_id",
    "quote",
    "stream",
    "tool_calls",
    "turns_before",
    "turns_dropped",
}
ADDED_STEP_FIELDS = {"fault"}
ADDED_TO_ATTEMPTS = {
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "usage_implausible",
    "failure",
    "turns_dropped",
}
"""Fields of attempts that 0.1.0 did not have or did not show. They are 0, false or null in its records."""
ADDED_PRIORITY = ("priority", "interactive")
"""The field of a task that was added, with its value in a record of 0.1.0."""
ADDED_LIMITS = {"sources": None}
"""Limits that were added, with their values in a record of 0.1.0."""
REJECTED = "the plan was rejected"
"""What 0.1.0 did not say of a task that its caller cancelled by rejecting the plan."""


def in_todays_words(expected: dict[str, Any]) -> dict[str, Any]:
    """Return tasks that 0.1.0 showed, with today's names of their events."""
    return {name: task | {"events": _renamed(task["events"])} for name, task in expected.items()}


def as_of_then(shown: dict[str, Any]) -> dict[str, Any]:
    """Return tasks of today without the events and fields that were added since 0.1.0."""
    return {name: _without_additions(task) for name, task in shown.items()}


def with_limits_of_then(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without the limits that were added since 0.1.0, if they have the value that means no limit."""
    if "limits" not in record:
        return record
    kept = {n: value for n, value in record["limits"].items() if n not in ADDED_LIMITS or value != ADDED_LIMITS[n]}
    return record | {"limits": kept}


def _renamed(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [event for event in events if event["event"] not in DROPPED]
    return [event | {"event": RENAMED.get(event["event"], event["event"])} for event in kept]


def _without_additions(task: dict[str, Any]) -> dict[str, Any]:
    events = [
        event | {"detail": ""} if event["detail"] == REJECTED else event
        for event in task["events"]
        if event["event"] not in ADDED
    ]
    attempts = [
        {name: value for name, value in attempt.items() if name not in ADDED_TO_ATTEMPTS or value}
        for attempt in task["attempts"]
    ]
    plan = task["plan"] and task["plan"] | {"steps": [_without(ADDED_STEP_FIELDS, s) for s in task["plan"]["steps"]]}
    task = dict(field for field in task.items() if field != ADDED_PRIORITY)
    return with_limits_of_then(_without(ADDED_FIELDS, task)) | {"events": events, "attempts": attempts, "plan": plan}


def _without(added: set[str], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in added}
