"""What 0.1.0 showed of its records, in the words of today's API."""

from __future__ import annotations

from typing import Any

RENAMED = {
    "created": "accepted",
    "analysed": "routed",
    "step finished": "step.completed",
    "step failed": "step.failed",
}
"""Events that 0.1.0 called otherwise."""
DROPPED = {"engine failed over"}
"""Told by `attempt.failed` since."""
ADDED = {"attempt.failed", "awaiting_approval"}
ADDED_FIELDS = {"demonstration"}


def in_todays_words(expected: dict[str, Any]) -> dict[str, Any]:
    """Tasks as 0.1.0 showed them, their events under today's names."""
    return {name: task | {"events": _renamed(task["events"])} for name, task in expected.items()}


def as_of_then(shown: dict[str, Any]) -> dict[str, Any]:
    """Tasks as they are shown today, without what was added since."""
    return {name: _without_additions(task) for name, task in shown.items()}


def _renamed(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [event for event in events if event["event"] not in DROPPED]
    return [event | {"event": RENAMED.get(event["event"], event["event"])} for event in kept]


def _without_additions(task: dict[str, Any]) -> dict[str, Any]:
    events = [event for event in task["events"] if event["event"] not in ADDED]
    return {name: value for name, value in task.items() if name not in ADDED_FIELDS} | {"events": events}
