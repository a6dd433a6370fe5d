"""The task that a new task follows: which turns it is told, and which role it keeps."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.conversation import MAX_TASKS, Conversation
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.engines.chat import Need, both
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.errors import (
    ConversationBusy,
    ConversationNotFound,
    InvalidInput,
    StateConflict,
    TaskNotFound,
)
from llm_server.orchestration.domain.ports.conversations import ConversationStore
from llm_server.orchestration.domain.ports.tasks import SweepIndex, TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.routing.analysis import Analysis

MAX_SHORT_WORDS = 6
"""A prompt of at most so many words, such as "And in French?", says little about the role that it needs."""


class FollowStore(TaskStore, SweepIndex, ConversationStore, Protocol):
    """The part of the store that finds the turns before a task."""


class FollowUp(Struct, frozen=True, kw_only=True):
    """What a new task takes from the turns before it.

    `earlier` are the Completed tasks that it is told, oldest first. `turns_before` also counts those that are gone.
    `parent` is the last of them. `conversation` is the record as it was read; None outside a conversation.
    """

    earlier: tuple[str, ...] = ()
    turns_before: int = 0
    parent: Snapshot | None = None
    conversation: Conversation | None = None

    @property
    def previous_task_id(self) -> str | None:
        return self.earlier[-1] if self.earlier else None

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The function calls that the last answer asks for."""
        return self.parent.tool_calls if self.parent else ()

    @property
    def needs(self) -> tuple[Need, ...]:
        """What an engine must take to be told the turns."""
        if self.parent is None:
            return ()
        return both(self.parent.request.needs, ["tools"] if self.open_calls else [])


NO_TURNS = FollowUp()


def find(store: FollowStore, tenant: str, *, previous_task_id: str | None, conversation_id: str | None) -> FollowUp:
    """Find the turns before a new task, among the tasks of its tenant.

    Raises:
        InvalidInput: the task or the conversation is not stored, or the task is not the last one of the conversation.
        StateConflict: the previous task has not Completed, or the conversation can take no task, or none now.
    """
    if conversation_id is not None:
        return _in_conversation(store, tenant, conversation_id, previous_task_id)
    if previous_task_id is not None:
        return _after(_parent(store, TaskRef(tenant, previous_task_id)))
    return NO_TURNS


def _parent(store: FollowStore, ref: TaskRef) -> Snapshot:
    """Return the Completed task that a new one follows."""
    try:
        parent = store.get(ref)
    except TaskNotFound:
        message = "previous_task_id names no task; it may have been deleted, or have expired."
        raise InvalidInput("previous_task_id", message) from None
    status = parent.task.status
    if not status.is_final:
        message = f"The previous task is {status}; it can be followed once it has Completed."
        raise StateConflict(message, code="previous_task_open")
    if status is not Status.COMPLETED:
        message = f"The previous task is {status}, so it has no result; follow the task before it."
        raise StateConflict(message, code="previous_task_not_completed")
    return parent


def _after(parent: Snapshot) -> FollowUp:
    earlier = (*parent.request.earlier, parent.task.task_id)[-MAX_TASKS:]
    return FollowUp(earlier=earlier, turns_before=parent.request.turns_before + 1, parent=parent)


def _in_conversation(store: FollowStore, tenant: str, conversation_id: str, previous_task_id: str | None) -> FollowUp:
    """Find the turns of a conversation. Its Failed and Cancelled tasks have no result: they are left out."""
    try:
        conversation = store.conversation(tenant, conversation_id)
    except ConversationNotFound:
        message = "conversation_id names no conversation; it may have been deleted, or have expired."
        raise InvalidInput("conversation_id", message) from None
    states = store.peek_each(conversation.refs)
    found = [(ref.task_id, states.get(ref)) for ref in conversation.refs]
    if any(task is not None and not task.status.is_final for _, task in found):
        raise ConversationBusy
    if len(found) >= MAX_TASKS:
        message = f"The conversation has {MAX_TASKS} tasks, the most it can have; begin a new one."
        raise StateConflict(message, code="conversation_full")
    completed = tuple(task_id for task_id, task in found if task is not None and task.status is Status.COMPLETED)
    gone = sum(task is None for _, task in found)
    last = completed[-1] if completed else None
    if previous_task_id not in (None, last):
        told = f"follows {last}" if last else "follows no task"
        message = f"The next task of the conversation {told}; leave previous_task_id out, or send this one."
        raise InvalidInput("previous_task_id", message)
    parent = None if last is None else _snapshot(store, TaskRef(tenant, last))
    return FollowUp(earlier=completed, turns_before=len(completed) + gone, parent=parent, conversation=conversation)


def _snapshot(store: FollowStore, ref: TaskRef) -> Snapshot | None:
    """Return a task, or None if it was deleted since its state was read."""
    try:
        return store.get(ref)
    except TaskNotFound:
        return None


def kept(
    analysis: Analysis, parent: Snapshot, prompt: str, catalog: Catalog, *, profile: str | None = None
) -> Analysis | None:
    """Return the analysis with the role and the mode of the parent, if the prompt alone says too little; else None.

    It does if it has at most six words, or if the confidence is below the threshold. After a plan, the role that the
    profile has for usual tasks answers in Agent mode. The parent's complexity holds, too: "And for n = 3?" needs the
    engine that its question needed. `profile` is the one that the caller chose; it must have the role.
    """
    words, threshold = len(prompt.split()), catalog.defaults.confidence_threshold
    if words > MAX_SHORT_WORDS and analysis.confidence >= threshold:
        return None
    task, asked = parent.task, parent.decided_request
    was_plan = task.mode is Mode.PLAN
    known = catalog.profiles.get(task.profile)
    role = known.default_role if was_plan and known else task.role
    if role not in catalog.roles or profile not in (None, *catalog.roles[role].profiles):
        return None
    mode = Mode.AGENT if was_plan else task.mode
    why = f"the prompt has {words} words" if words <= MAX_SHORT_WORDS else f"confidence {analysis.confidence:.2f}"
    reason = f"{why}: {role} goes on in {mode} mode, as in the turn before"
    return replace(analysis, mode=mode, role=role, complexity=asked.complexity, reasons=(*analysis.reasons, reason))
