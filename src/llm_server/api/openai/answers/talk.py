"""The items of a conversation: the input and the output of its tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_server.api.openai.answers import items
from llm_server.api.openai.answers.response import response
from llm_server.orchestration.domain.errors import TaskNotFound
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service


def items_of(service: Service, tenant: str, conversation_id: str) -> list[dict[str, Any]]:
    """Return all items, oldest first. Tasks without an output have only their input. Raises ConversationNotFound."""
    found = service.conversations.read(tenant, conversation_id)
    return [item for task in found.tasks for item in _of_task(service, task.ref)]


def _of_task(service: Service, ref: TaskRef) -> Iterator[dict[str, Any]]:
    try:
        snapshot = service.get(ref)
    except TaskNotFound:  # deleted meanwhile
        return
    yield from items.input_of(ref.task_id, snapshot.request)
    yield from response(snapshot)["output"]
