"""What the dialect reads, and the service does not carry out yet: such a request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.tasks.new_task import NewTask

_WORDS = {
    "messages": "several messages, images or results of functions; send one message with the role 'user'",
    "instructions": "system prompts of the caller; choose a role by `model` or `role`",
    "tools": "functions of the caller",
    "tool_choice": "functions of the caller",
}


def check(new: NewTask) -> None:
    """Refuse a task with a field that no engine would be told. Raises InvalidInput."""
    for name, words in _WORDS.items():
        if getattr(new, name):
            raise InvalidInput(name, f"This server does not take {words}.")


def check_schema(schema: Mapping[str, Any] | None, field: str) -> None:
    """Refuse a schema for the answer. Raises InvalidInput."""
    if schema is not None:
        raise InvalidInput(field, f"This server does not take a schema for the answer; leave {field!r} out.")
