"""What the dialect says of a task's state where the native API says something else."""

from __future__ import annotations

from llm_server.api.openai.answers.response import status_of
from llm_server.api.openai.errors import DialectError
from llm_server.orchestration.domain.errors import StateConflict
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service

MAX_NUMBER = 2**53 - 1


def cancelled(service: Service, ref: TaskRef) -> Snapshot:
    """Cancel a task that is not final; a Cancelled one is returned as it is.

    Raises:
        DialectError: the task is final in another state. OpenAI's clients repeat a 409, so this is a 400.
    """
    try:
        return service.cancel(ref)
    except StateConflict as error:
        if error.code != "task_final":
            raise
        status = status_of(service.get(ref))
        raise DialectError(400, error.code, f"Cannot cancel a {status} response.") from None


def sequence_number(text: str | None) -> int:
    """Return the number after which a stream begins; -1 for all of it. Raises DialectError."""
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_NUMBER:
        message = "The query parameter 'starting_after' must be a whole number, the sequence_number of an event."
        raise DialectError(400, "invalid_input", message, param="starting_after")
    return int(text)
