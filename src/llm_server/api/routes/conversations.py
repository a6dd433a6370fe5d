"""The routes of conversations: each parses, calls one method of the service, and formats."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Response

from llm_server.api import views
from llm_server.api.contract import PREFIX, Caller, Responses, Run, Service, answer, header_docs, keyed_router, problems
from llm_server.api.schemas import conversations

router = keyed_router("Conversations")
_LOCATION = header_docs(
    Location=("The path of the conversation.", "/api/v1/conversations/01a205c3-cd94-748c-a7f0-50965914d0b5")
)
_CREATED: Responses = {201: {"description": "The conversation, without tasks.", "headers": _LOCATION}}
ConversationId = Annotated[
    str,
    Path(
        description="The id of the conversation, a UUID.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
        json_schema_extra={"format": "uuid"},
    ),
]


@router.post(
    "/conversations",
    status_code=201,
    summary="Create a conversation",
    response_model=conversations.ConversationView,
    responses=problems(422, 503) | _CREATED,
)
async def create_conversation(run: Run, service: Service, caller: Caller) -> Response:
    """Create a conversation. Send its id as `conversation_id` with each of its tasks."""
    created = await run.write(partial(service.conversations.create, caller.tenant))
    headers = {"Location": f"{PREFIX}/conversations/{created.conversation_id}"}
    return answer(views.conversation(created, ()), 201, headers)


@router.get(
    "/conversations/{conversation_id}",
    summary="Read a conversation",
    response_model=conversations.ConversationView,
    response_description="The conversation and its tasks.",
    responses=problems(404, 422, 503),
)
async def get_conversation(conversation_id: ConversationId, run: Run, service: Service, caller: Caller) -> Response:
    """Read a conversation with its tasks, oldest first. Tasks that were deleted or have expired are left out."""
    found = await run.read(partial(service.conversations.read, caller.tenant, conversation_id))
    return answer(views.conversation(found.conversation, found.tasks))


@router.delete(
    "/conversations/{conversation_id}",
    status_code=204,
    summary="Delete a conversation",
    response_description="The conversation and its tasks are deleted.",
    responses=problems(404, 409, 422, 503),
)
async def delete_conversation(conversation_id: ConversationId, run: Run, service: Service, caller: Caller) -> Response:
    """Delete a conversation with all its tasks. Tasks that are not final are cancelled first.

    While a worker has one of the tasks, the call is refused (409).
    """
    await run.write(partial(service.conversations.delete, caller.tenant, conversation_id))
    return Response(status_code=204)
