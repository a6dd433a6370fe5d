"""Writes errors in the form of OpenAI's API, and the errors that only the dialect has.

Every error is first answered as on any other path (`api/errors.py`); here its document is written in the other form.
The sentence is the same, and stands in `error.message`, which OpenAI's clients show, and in `detail`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from llm_server.api import errors
from llm_server.api.openai import ids
from llm_server.api.openai.mount import PREFIX
from llm_server.orchestration.domain.errors import InvalidInput, StorageUnavailable

MAX_RETRY_AFTER_S = 60
"""OpenAI's clients sleep for up to 120 s, twice, before they give up."""
NO_RETRY = "x-should-retry"
"""Tells OpenAI's clients whether to repeat a call. Without this header they repeat each 408, 409, 429 and 5xx."""

_STATUSES = {"usd_per_day_spent": 402}
"""The statuses of codes that have another one in the dialect."""
_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_NAMES = {"previous_task_id": "previous_response_id", "conversation_id": "conversation"}
"""Fields of a task, by which its checks name faults, and the fields of the dialect that they come from."""


class DialectError(HTTPException):
    """An error that only the dialect has. Sending the same call again does not help."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, task_id: str = "") -> None:
        super().__init__(status, message)
        self.code = code
        self.param = param
        self.task_id = task_id


class ModelNotFound(DialectError):
    """The request names a model that this server does not have."""

    def __init__(self, model: str, known: Collection[str]) -> None:
        shown = model if len(model) <= 60 else model[:60] + "…"
        message = f"Unknown model {shown!r}; known are {', '.join(sorted(known))}."
        super().__init__(404, "model_not_found", message, param="model")


def answer_to(scope: Scope, error: Exception) -> Response | None:
    """Return the answer to an error of a call; None if only a bug can have caused it."""
    if isinstance(error, DialectError):
        headers = {"x-llm-server-task-id": error.task_id} if error.task_id else {}
        return _answer(error.status_code, error.code, error.detail, error.param, headers, retryable=False)
    if isinstance(error, InvalidInput):
        error = _renamed(error, scope["path"])
    response = errors.answer_to(scope, error)
    return None if response is None else respelled(response)


@contextmanager
def accepted(task_id: str) -> Iterator[None]:
    """Do what follows the acceptance of a task. If the database fails now, the same call would make another task.

    Raises:
        DialectError: the database did not answer; it names the response to read later.
    """
    try:
        yield
    except StorageUnavailable as error:
        raise DialectError(503, error.code, f"{error} {read_at(task_id)}", task_id=task_id) from error


def respelled(response: Response) -> Response:
    """Return an error in the dialect's form; any other response is returned as it is."""
    if response.media_type != errors.MEDIA_TYPE:
        return response
    problem = json.loads(bytes(response.body))
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    faults = problem.get("errors", ())
    param = faults[0]["pointer"].removeprefix("/").replace("/", ".") if faults else None
    status = _STATUSES.get(problem["code"], problem["status"])
    is_retryable = problem["retryable"] and status != HTTPStatus.PAYMENT_REQUIRED
    return _answer(status, problem["code"], problem["detail"], param or None, headers, retryable=is_retryable)


def document(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}, "detail": message}


def read_at(task_id: str) -> str:
    """Return the sentence that tells a caller where the task of a chat completion can be read."""
    return f"Read it at GET /v1/responses/{ids.response(task_id)}."


def _answer(
    status: int, code: str, message: str, param: str | None, headers: Mapping[str, str], *, retryable: bool
) -> JSONResponse:
    response = JSONResponse(document(status, code, message, param), status, headers)
    if not retryable:
        response.headers[NO_RETRY] = "false"
        del response.headers["retry-after"]
    elif "retry-after" in response.headers:
        response.headers["retry-after"] = str(min(int(response.headers["retry-after"]), MAX_RETRY_AFTER_S))
    return response


def _renamed(error: InvalidInput, path: str) -> InvalidInput:
    """Return the error with the names that the fields have on this path."""
    if error.field == "prompt":
        field = "messages" if path.startswith(f"{PREFIX}/chat/") else "input"
        return InvalidInput(field, str(error), code=error.code)
    known = _NAMES.get(error.field)
    if known is None:
        return error
    return InvalidInput(known, str(error).replace(error.field, known), code=error.code)
