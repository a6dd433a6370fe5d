"""Conversations: tasks that follow one another, and the earlier turns that an engine is told."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.message import Message
from llm_server.orchestration.domain.task import TaskRef

MAX_TASKS = 100
"""The most tasks of a conversation, and the most earlier turns that a task can be told."""


class Turn(Struct, frozen=True, kw_only=True):
    """A Completed task as later tasks of its conversation are told it: its prompt and its result."""

    prompt: str
    result: str

    @property
    def messages(self) -> tuple[Message, ...]:
        return (Message(role="user", text=self.prompt), Message(role="assistant", text=self.result))

    @property
    def size(self) -> int:
        """The characters of both texts."""
        return len(self.prompt) + len(self.result)


class History(Struct, frozen=True, kw_only=True):
    """The messages of the turns before a task, oldest first, and how many earlier turns are not among them."""

    messages: tuple[Message, ...] = ()
    missing: int = 0


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
