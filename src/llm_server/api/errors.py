"""Every error as `{"detail": "<one sentence>"}`: one table from what happened to a status."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from llm_server.orchestration.errors import InvalidInput, LLMServerError, StorageUnavailable, TaskNotFound

STATUS: dict[type[LLMServerError], int] = {InvalidInput: 422, TaskNotFound: 404, StorageUnavailable: 503}
RETRY_AFTER_S = "5"
INTERNAL = "The server made an error; it is logged under this answer's X-Request-Id."


def install(app: FastAPI) -> None:
    """Answer every failure of an app by the table above."""
    app.add_exception_handler(LLMServerError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _refused)


def answer(status: int, detail: str, **members: Any) -> JSONResponse:
    """An error body (RFC 9457 members `detail` and, where there are several, `errors`)."""
    headers = {"Retry-After": RETRY_AFTER_S} if status == 503 else None
    return JSONResponse({"detail": detail, **members}, status, headers)


async def _known(_: Request, error: Exception) -> JSONResponse:
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)
    if status is None:
        raise error
    if isinstance(error, InvalidInput):
        return answer(status, str(error), errors=[{"pointer": f"/{error.field}", "detail": str(error)}])
    return answer(status, str(error))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [{"pointer": _pointer(f["loc"]), "detail": _sentence(f)} for f in error.errors()]
    return answer(422, faults[0]["detail"], errors=faults)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    response = answer(error.status_code, _own_sentence(request, error))
    response.headers.update(error.headers or {})
    return response


def _own_sentence(request: Request, error: StarletteHTTPException) -> str:
    """What the framework says in a bare phrase, said in a sentence."""
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail if error.status_code != 413 else "The body is too large."
    return {
        404: "There is nothing at this path.",
        405: f"The method {request.method} is not allowed here.",
        413: "The body is too large.",
    }.get(error.status_code, f"{error.detail}.")


def _pointer(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) into the body, or the name of a parameter."""
    parts = location[1:] if location[0] == "body" else location
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')[:60]}" for part in parts)


def _sentence(fault: Any) -> str:
    place = ".".join(str(part)[:60] for part in fault["loc"][1:]) or "body"
    if fault["type"] == "extra_forbidden":
        return f"Unknown field {place!r}."
    if fault["type"] == "missing":
        return f"The field {place!r} is missing."
    message = fault["msg"].removeprefix("Value error, ")
    return f"The field {place!r} is not valid: {message}."


