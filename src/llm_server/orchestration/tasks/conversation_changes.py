"""Creates, reads and deletes conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.errors import ConversationNotFound, StateConflict, TaskNotFound
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.conversations import ConversationStore
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import SweepIndex, TaskStore
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.task_deletion import TaskDeletion

IN_PROGRESS = "A worker has a task of the conversation; cancel it, and delete the conversation when it has stopped."


class TalkStore(TaskStore, SweepIndex, ConversationStore, Protocol):
    """The part of the store that conversations use."""


class Listed(Struct, frozen=True, kw_only=True):
    """A conversation with the tasks of it that are stored, in the order in which they were accepted."""

    conversation: Conversation
    tasks: Sequence[Task]


class Conversations:
    """Makes callers' changes to conversations."""

    def __init__(self, *, store: TalkStore, ledger: Ledger, clock: Clock, new_id: Callable[[], str]) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._deletion = TaskDeletion(store, ledger, clock)

    def create(self, tenant: str) -> Conversation:
        """Store a new conversation without tasks."""
        now_ms = self._clock()
        created = Conversation(tenant=tenant, conversation_id=self._new_id(), created_ms=now_ms, updated_ms=now_ms)
        self._store.add_conversation(created)
        return created

    def read(self, tenant: str, conversation_id: str) -> Listed:
        """Read a conversation and the states of its tasks. Raises ConversationNotFound."""
        found = self._store.conversation(tenant, conversation_id)
        return Listed(conversation=found, tasks=[task for _, task in self._states(found) if task is not None])

    def delete(self, tenant: str, conversation_id: str) -> None:
        """Remove a conversation with all its tasks. Open tasks are cancelled first.

        While a worker has one of the tasks, nothing is removed. If the removal is interrupted, calling this again
        removes the rest.

        Raises:
            ConversationNotFound: it is not stored, or was deleted before.
            StateConflict: a worker has a task, or other callers keep changing the conversation.
        """
        found = self._store.conversation(tenant, conversation_id)
        now_ms = self._clock()
        if any(task is not None and task.has_worker(now_ms) for _, task in self._states(found)):
            raise StateConflict(IN_PROGRESS, code="task_in_progress")
        for ref in found.refs:
            with suppress(TaskNotFound):  # deleted before, or expired
                self._deletion.delete(ref)
        if not self._store.remove_conversation(found):
            self._check_removed(found)

    def _check_removed(self, conversation: Conversation) -> None:
        """Raise StateConflict if the conversation got a task meanwhile."""
        with suppress(ConversationNotFound):
            self._store.conversation(conversation.tenant, conversation.conversation_id)
            raise StateConflict("The conversation is being changed; try again.", code="task_changing")

    def _states(self, conversation: Conversation) -> list[tuple[TaskRef, Task | None]]:
        states = self._store.peek_each(conversation.refs)
        return [(ref, states.get(ref)) for ref in conversation.refs]
