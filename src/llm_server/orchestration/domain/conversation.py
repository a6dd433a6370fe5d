"""Conversations: tasks that follow one another, and the earlier turns that an engine is told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.image_tokens import USUAL_CHARS
from llm_server.orchestration.domain.engines.message import Message, ToolCall, user
from llm_server.orchestration.domain.task import TaskRef

if TYPE_CHECKING:
    from llm_server.orchestration.domain.output import Output
    from llm_server.orchestration.domain.snapshot import Request

MAX_TASKS = 100
"""The most tasks of a conversation, and the most earlier turns that a task can be told."""


class Turn(Struct, frozen=True, kw_only=True):
    """A Completed task as later tasks of its conversation are told it: its prompt and its result.

    `sent` are the messages that its caller sent in place of the prompt alone; `tool_calls` are those of the result.
    """

    prompt: str
    result: str
    sent: tuple[Message, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()

    @classmethod
    def of(cls, request: Request, answer: Output) -> Turn:
        """Return the turn of a task with this request and this final answer."""
        sent, calls = request.messages, answer.tool_calls
        return cls(prompt=request.prompt, result=answer.text or "", sent=sent, tool_calls=calls)

    @property
    def messages(self) -> tuple[Message, ...]:
        answer = Message(role="assistant", text=self.result, tool_calls=self.tool_calls)
        return (*(self.sent or user(self.prompt)), answer)

    @property
    def size(self) -> int:
        """The characters of all texts; each image counts as a text of a usual image's tokens."""
        if not (self.sent or self.tool_calls):
            return len(self.prompt) + len(self.result)
        return sum(len(message.texts) + USUAL_CHARS * len(message.images) for message in self.messages)

    @property
    def image_bytes(self) -> int:
        """The size of the images in base64."""
        return sum(len(image.data) for message in self.sent for image in message.images)


class History(Struct, frozen=True, kw_only=True):
    """The messages of the turns before a task, oldest first, and how many earlier turns are not among them."""

    messages: tuple[Message, ...] = ()
    missing: int = 0

    def has_calls_for(self, results: Sequence[Message]) -> bool:
        """Return whether the last answer asked for the calls whose results come first among these messages."""
        asked = {call.call_id for call in self.messages[-1].tool_calls} if self.messages else set[str]()
        given = takewhile(lambda message: message.role == "tool", results)
        return asked.issuperset(message.tool_call_id for message in given)


class Conversation(Struct, frozen=True, kw_only=True):
    """The record of a conversation: its tasks in the order in which they were accepted. Times are Unix milliseconds.

    A store accepts a record only if it holds the previous one (`rev - 1`).
    """

    tenant: str
    conversation_id: str
    created_ms: int
    updated_ms: int
    rev: int = 1
    task_ids: tuple[str, ...] = ()

    @property
    def refs(self) -> list[TaskRef]:
        return [TaskRef(self.tenant, task_id) for task_id in self.task_ids]

    def with_task(self, task_id: str, *, now_ms: int) -> Conversation:
        """Return the record with one more task, which was accepted at `now_ms`."""
        return replace(self, rev=self.rev + 1, updated_ms=now_ms, task_ids=(*self.task_ids, task_id))
