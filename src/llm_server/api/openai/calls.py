"""Shared parts of the dialect's routes: the router, the body, the task of an id, and how long a call may wait."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Query, Response

from llm_server.api.contract import Caller, Run
from llm_server.api.openai import ids
from llm_server.api.openai.mount import PREFIX
from llm_server.api.requests.routes import StrictRoute
from llm_server.api.waiting import MAX_WAIT_S
from llm_server.orchestration.domain.errors import ConversationNotFound, TaskNotFound
from llm_server.orchestration.domain.task import TaskRef

MAX_LASTING_WAIT_S = 590
"""How long the embedded server holds a response: OpenAI's clients give up after 600 s without a byte."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def router() -> APIRouter:
    """Return a router whose routes check the caller's key before they read the body."""
    return APIRouter(prefix=PREFIX, route_class=StrictRoute)


def answer(document: object, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), headers=headers, media_type="application/json")


def wait_s(run: Run) -> int:
    """Return how many seconds a call waits for its task: on AWS less than the 29 s that the gateway allows."""
    return MAX_LASTING_WAIT_S if run.streams else MAX_WAIT_S


def _ref(response_id: Annotated[str, Path()], caller: Caller) -> TaskRef:
    """Return the task of a response. Raises TaskNotFound."""
    task_id = ids.task_of_response(response_id)
    if not _ID.fullmatch(task_id):
        raise TaskNotFound
    return TaskRef(caller.tenant, task_id)


def _conversation_id(conversation_id: Annotated[str, Path()]) -> str:
    """Return the id of a conversation as the service knows it. Raises ConversationNotFound."""
    found = ids.conversation_of(conversation_id)
    if not _ID.fullmatch(found):
        raise ConversationNotFound
    return found


Fields = Annotated[dict[str, Any], Body()]
"""The body of a request."""
After = Annotated[str | None, Query()]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query()]
Include = Annotated[list[str] | None, Query(alias="include[]")]
"""What OpenAI's clients may ask for in addition; there is nothing to add, so it is ignored."""
Ref = Annotated[TaskRef, Depends(_ref)]
ConversationId = Annotated[str, Depends(_conversation_id)]
