"""Every error as `{"detail": "<one sentence>"}`: one table from what happened to a status."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from llm_server.api.auth import rate_headers
from llm_server.api.schemas.new_task import NO_NUL
from llm_server.orchestration.access.keyring import RequestsLeft
from llm_server.orchestration.domain.errors import (
    EngineNotFound,
    InvalidInput,
    KeyConflict,
    KeyNotFound,
    LLMServerError,
    QuotaExceeded,
    RecordUnreadable,
    ScopeMissing,
    StateConflict,
    StorageMisconfigured,
    StorageUnavailable,
    TaskNotFound,
    Unauthenticated,
)

_log = logging.getLogger(__name__)

STATUS: dict[type[LLMServerError], int] = {
    InvalidInput: 422,
    Unauthenticated: 401,
    ScopeMissing: 403,
    TaskNotFound: 404,
    EngineNotFound: 404,
    KeyNotFound: 404,
    KeyConflict: 409,
    StateConflict: 409,
    QuotaExceeded: 429,
    RecordUnreadable: 503,
    StorageUnavailable: 503,
}
RETRY_AFTER_S = "5"
MAX_FAULTS = 20
NO_HTTP = "What came is not a valid HTTP/1.1 request."
NOTHING_HERE = "There is nothing at this path."
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
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
        return answer(status, str(error), errors=[{"pointer": _pointer(("", error.field)), "detail": str(error)}])
    if isinstance(error, StorageMisconfigured):
        _log.error("the database cannot be used", extra={"cause": error.cause})
    response = answer(status, str(error))
    response.headers.update(_advice(error))
    return response


def _advice(error: Exception) -> dict[str, str]:
    """What a refused caller can do, in headers: RFC 9110, 11.6.1 and 10.2.3."""
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, QuotaExceeded):
        reset_s = error.retry_after_s
        rate = rate_headers(RequestsLeft(most=error.requests, left=0, reset_s=reset_s)) if error.requests else {}
        return {"Retry-After": str(reset_s), **rate}
    return {}


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    body = getattr(request.scope.get("route"), "body_field", None)
    model = body.field_info.annotation if body else None
    faults = [{"pointer": _pointer(f["loc"]), "detail": _sentence(f, model)} for f in error.errors()[:MAX_FAULTS]]
    return answer(422, faults[0]["detail"], errors=faults)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    response = answer(error.status_code, _own_sentence(request, error))
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = _allowed(request)
    return response


def _allowed(request: Request) -> str:
    """Every method of a path (RFC 9110, 15.5.6); the framework names those of the first route alone."""
    routes = request.app.router.routes
    scopes = [(method, {**request.scope, "method": method}) for method in METHODS]
    return ", ".join(name for name, scope in scopes if any(r.matches(scope)[0] is Match.FULL for r in routes))


def _own_sentence(request: Request, error: StarletteHTTPException) -> str:
    """What the framework says in a bare phrase, said in a sentence."""
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail
    return {
        404: NOTHING_HERE,
        405: f"The method {request.method[:20]} is not allowed here.",
    }.get(error.status_code, f"{error.detail}.")


def _pointer(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) into the body, or a slash and a parameter's name."""
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in _parts(location))


def _parts(location: Sequence[str | int]) -> list[str]:
    """Where a fault is, below body, query or path; `[key]` is pydantic's mark for a fault of the key before it."""
    return [str(part)[:60] for part in location[1:] if part != "[key]"]


def _known_fields(model: Any, parts: Sequence[str]) -> str:
    """The fields a body's model has where an unknown one stands."""
    for part in parts[:-1]:
        model = model.model_fields[part].annotation
    return ", ".join(model.model_fields)


def _sentence(fault: Any, model: Any) -> str:
    parts = _parts(fault["loc"])
    place = ".".join(parts)
    if not parts:
        return "The body is not a JSON object."
    if fault["type"] == "extra_forbidden":
        return f"Unknown field {place!r}; known are {_known_fields(model, parts)}."
    if fault["type"] == "missing":
        return f"The field {place!r} is missing."
    if fault["type"] == "string_pattern_mismatch" and fault["ctx"]["pattern"] == NO_NUL:
        return f"The field {place!r} holds a NUL character."
    return f"The field {place!r} is not valid: {fault['msg']}."
