"""The ids of the dialect: those of tasks and conversations with a prefix, as OpenAI's ids have one."""

from __future__ import annotations

import re

_VALID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_RESPONSE, _CHAT, _CONVERSATION = "resp_", "chatcmpl-", "conv_"


def is_valid(given: str) -> bool:
    """Return whether a text has the form of an id."""
    return _VALID.fullmatch(given) is not None


def response(task_id: str) -> str:
    return _RESPONSE + task_id


def chat(task_id: str) -> str:
    return _CHAT + task_id


def conversation(conversation_id: str) -> str:
    return _CONVERSATION + conversation_id


def message(task_id: str, number: int = 1) -> str:
    """Return the id of an answer's message. `number` counts the messages that a stream began, from 1."""
    return f"msg_{task_id}" if number == 1 else f"msg_{task_id}_{number}"


def task_of_response(response_id: str) -> str:
    """Return the id of the task; a task's own id, and the id of its chat completion, are accepted, too."""
    return response_id.removeprefix(_RESPONSE).removeprefix(_CHAT)


def conversation_of(conversation_id: str) -> str:
    return conversation_id.removeprefix(_CONVERSATION)
