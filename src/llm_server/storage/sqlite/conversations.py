"""Records of conversations, and the turns of their tasks."""

from __future__ import annotations

import sqlite3

from llm_server.orchestration.domain.conversation import Conversation, Turn
from llm_server.orchestration.domain.errors import ConversationBusy
from llm_server.orchestration.domain.output import OutputKey
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage import records
from llm_server.storage.sqlite import task_rows

_OUTPUT = "SELECT body FROM outputs WHERE (tenant, task_id, key) = (?, ?, ?)"
_REQUEST = "SELECT body FROM requests WHERE (tenant, task_id) = (?, ?)"


def add(db: sqlite3.Connection, conversation: Conversation) -> None:
    db.execute(
        "INSERT OR IGNORE INTO conversations VALUES (?, ?, ?, ?, ?)", (*_key(conversation), *_rest(conversation))
    )


def read(db: sqlite3.Connection, tenant: str, conversation_id: str, retention: Retention) -> Conversation | None:
    """Return a conversation, or None if it is not stored or has expired."""
    if not records.is_name(TaskRef(tenant, conversation_id)):
        return None
    query = "SELECT body FROM conversations WHERE (tenant, conversation_id) = (?, ?)"
    row = db.execute(query, (tenant, conversation_id)).fetchone()
    conversation = records.conversation(row[0]) if row else None
    return None if conversation is None or retention.has_conversation_expired(conversation.updated_ms) else conversation


def advance(db: sqlite3.Connection, after: Conversation) -> None:
    """Replace the record before `after`. Raises ConversationBusy if another one is stored, or none."""
    update = """UPDATE conversations SET rev = ?, updated_ms = ?, body = ?
        WHERE (tenant, conversation_id, rev) = (?, ?, ?)"""
    if not db.execute(update, (*_rest(after), *_key(after), after.rev - 1)).rowcount:
        raise ConversationBusy


def remove(db: sqlite3.Connection, conversation: Conversation) -> bool:
    statement = "DELETE FROM conversations WHERE (tenant, conversation_id, rev) = (?, ?, ?)"
    return db.execute(statement, (*_key(conversation), conversation.rev)).rowcount == 1


def turn(db: sqlite3.Connection, ref: TaskRef, retention: Retention) -> Turn | None:
    """Return the turn of a task, as `ConversationStore.turns`."""
    task = task_rows.state(db, ref, retention)
    if task is None or task.answer_fence is None:
        return None
    answer_key = records.output_key_text(OutputKey.of_answer(task.answer_fence))
    request = db.execute(_REQUEST, (ref.tenant, ref.task_id)).fetchone()
    answer = db.execute(_OUTPUT, (ref.tenant, ref.task_id, answer_key)).fetchone()
    if request is None or answer is None:
        return None
    return Turn.of(records.request(request[0]), records.output(answer[0]))


def _key(conversation: Conversation) -> tuple[str, str]:
    return conversation.tenant, conversation.conversation_id


def _rest(conversation: Conversation) -> tuple[int, int, str]:
    return conversation.rev, conversation.updated_ms, records.encode(conversation)
