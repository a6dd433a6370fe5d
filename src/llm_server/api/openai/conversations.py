"""The routes of conversations."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Response

from llm_server.api.contract import Caller, Run, Service
from llm_server.api.openai import calls, ids
from llm_server.api.openai.answers import items, talk
from llm_server.api.openai.calls import After, ConversationId, Fields, Include, Limit, Order, answer
from llm_server.api.openai.requests.reading import Part
from llm_server.orchestration.domain.conversation import Conversation

router = calls.router()


@router.post("/conversations")
async def create_conversation(fields: Fields, run: Run, service: Service, caller: Caller) -> Response:
    """Create a conversation without items."""
    body = Part(fields)
    body.only(("items", "metadata"))
    _check_empty(body)
    return answer(_view(await run.write(partial(service.conversations.create, caller.tenant))))


@router.get("/conversations/{conversation_id}")
async def get_conversation(conversation_id: ConversationId, run: Run, service: Service, caller: Caller) -> Response:
    """Read a conversation."""
    found = await run.read(partial(service.conversations.read, caller.tenant, conversation_id))
    return answer(_view(found.conversation))


@router.delete("/conversations/{conversation_id}")
async def delete_conversation(conversation_id: ConversationId, run: Run, service: Service, caller: Caller) -> Response:
    """Delete a conversation with all its tasks."""
    await run.write(partial(service.conversations.delete, caller.tenant, conversation_id))
    return answer({"id": ids.conversation(conversation_id), "object": "conversation.deleted", "deleted": True})


@router.get("/conversations/{conversation_id}/items")
async def list_items(
    conversation_id: ConversationId,
    run: Run,
    service: Service,
    caller: Caller,
    after: After = None,
    limit: Limit = 20,
    order: Order = "desc",
    include: Include = None,  # noqa: ARG001 - ignored
) -> Response:
    """List the input and the output of the conversation's tasks."""
    read = partial(talk.items_of, service, caller.tenant, conversation_id)
    return answer(items.page(await run.read(read), after=after, limit=limit, newest_first=order == "desc"))


def _view(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": ids.conversation(conversation.conversation_id),
        "object": "conversation",
        "created_at": conversation.created_ms // 1000,
        "metadata": {},
    }


def _check_empty(body: Part) -> None:
    """Refuse items and metadata: a conversation consists of its tasks."""
    if any(True for _ in body.parts("items")):
        body.fail("items", "must be empty: a conversation gets its items from the responses that are created in it")
    body.part("metadata")
    if body.value("metadata"):
        body.fail("metadata", "must be empty: conversations have none; send it with each response")
