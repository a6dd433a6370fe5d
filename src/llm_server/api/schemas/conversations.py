"""The response schemas of conversations."""

from __future__ import annotations

from pydantic import Field

from llm_server.api.schemas.base import ResponseSchema, Time
from llm_server.api.schemas.tasks import TaskSummary


class ConversationView(ResponseSchema):
    """A conversation and its tasks."""

    conversation_id: str = Field(
        json_schema_extra={"format": "uuid"},
        description="The id of the conversation, a UUID.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
    )
    created_at: Time = Field(description="When the conversation was created.")
    updated_at: Time = Field(description="When its last task was accepted.")
    tasks: list[TaskSummary] = Field(
        description="Its tasks in the order in which they were accepted; those that were deleted or have expired are "
        "left out."
    )
