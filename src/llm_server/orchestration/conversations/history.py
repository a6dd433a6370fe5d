"""Reads the turns before a claimed task, newest first, as far as an engine could be told them."""

from __future__ import annotations

from llm_server.orchestration.domain.conversation import History, Turn
from llm_server.orchestration.domain.ports.conversations import TurnStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef

MAX_IMAGE_BYTES = 16_000_000
"""How much of earlier turns' images, in base64, is read: APIs take requests of about 20 to 30 MB."""


def read(store: TurnStore, snapshot: Snapshot, *, max_chars: int) -> History:
    """Return the turns before a task that are still stored. Reading ends once they have `max_chars` characters.

    The turns are those of Completed tasks, which never change, so each claim of a task reads the same, unless one of
    them was deleted or has expired in between. It ends with the turn whose images exceed `MAX_IMAGE_BYTES`, too.
    """
    request, found, size, image_bytes = snapshot.request, list[Turn](), 0, 0
    newest_first = [TaskRef(snapshot.task.tenant, task_id) for task_id in reversed(request.earlier)]
    for turn in store.turns(newest_first):
        if turn is not None:
            found.append(turn)
            size += turn.size
            image_bytes += turn.image_bytes
        if size >= max_chars or image_bytes > MAX_IMAGE_BYTES:
            break
    messages = tuple(message for turn in reversed(found) for message in turn.messages)
    return History(messages=messages, missing=request.turns_before - len(found))
