"""The port for the records of conversations, and for the turns that later tasks are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.task import TaskRef


class TurnStore(Protocol):
    """The turns of conversations, read from the records of their tasks."""

    def turns(self, refs: Sequence[TaskRef]) -> Iterator[Turn | None]:
        """Yield the turn of each task, in the order of `refs`, reading only as far as the caller iterates.

        Yields None for a task that is not found or has expired, that has not Completed, or whose texts are not whole.
        Tasks are read several at a time, if the database can do so.
        """
        ...


class ConversationStore(TurnStore, Protocol):
    """The records of conversations. `TaskStore.add` stores a task and its place in the conversation together."""

    def add_conversation(self, conversation: Conversation) -> None:
        """Store a new conversation. Storing the same one again has no further effect."""
        ...

    def conversation(self, tenant: str, conversation_id: str) -> Conversation:
        """Read a conversation.

        Raises ConversationNotFound if it is not stored, or so long ago that each of its tasks has expired.
        """
        ...

    def remove_conversation(self, conversation: Conversation) -> bool:
        """Remove the record of a conversation; its tasks stay.

        Returns False, with nothing removed, if another record of the conversation is stored.
        """
        ...
