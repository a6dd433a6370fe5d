"""Answers each error as `application/problem+json` (RFC 9457), with the status that `error_codes.py` has for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match
from starlette.types import Scope

from llm_server.api.auth import rate_headers
from llm_server.api.error_codes import ERROR_CODES, Refusal
from llm_server.api.fault_sentences import pointer, sentence
from llm_server.orchestration.access.keyring import RequestsLeft
from llm_server.orchestration.domain.errors import (
    InvalidInput,
    LLMServerError,
    QuotaExceeded,
    StorageMisconfigured,
    TooManyRequests,
    Unauthenticated,
)

_log = logging.getLogger(__name__)

REQUEST_ID = "llm_server.request_id"
"""The key, in an ASGI scope, of the request's id, which the response repeats as X-Request-Id."""
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = "5"
MAX_FAULTS = 20
NOT_HTTP = "The request is not valid HTTP/1.1."
NO_SUCH_PATH = "The API does not have this path."
OTHER_ORIGIN = (
    "The server does not accept calls from pages of this origin; LLM_SERVER_CORS_ORIGINS lists those it accepts."
)
STOPPING = "The server stopped before the call was finished; it is unknown whether anything was stored."
INTERNAL = "The server failed to handle the request; the server's log has the reason under this request_id."

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
"""Status phrases of RFC 9110 for which older versions of Python have other words."""


def answer_to(scope: Scope, error: Exception) -> Response | None:
    """Return the answer to an error of a call; None if only a bug can have caused it."""
    if isinstance(error, LLMServerError):
        return _domain_error(scope, error)
    if isinstance(error, RequestValidationError):
        return _invalid_request(scope, error)
    if isinstance(error, StarletteHTTPException):
        return _http_error(scope, error)
    return None


def answer(code: str, detail: str, *, request_id: str, errors: Sequence[Mapping[str, str]] = ()) -> JSONResponse:
    """Return an error response; `errors` are the faults of the input, each with `pointer` and `detail`."""
    kind = ERROR_CODES[code]
    content: dict[str, Any] = {
        "detail": detail,
        "type": "about:blank",
        "title": _TITLES.get(kind.status) or HTTPStatus(kind.status).phrase,
        "status": kind.status,
        "code": code,
        "retryable": kind.retryable,
        "request_id": request_id,
    }
    if errors:
        content["errors"] = errors
    headers = {"Retry-After": RETRY_AFTER_S} if kind.status == 503 else None
    return JSONResponse(content, kind.status, headers, MEDIA_TYPE)


def _described(scope: Scope, code: str, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> JSONResponse:
    return answer(code, detail, request_id=scope[REQUEST_ID], errors=errors)


def _domain_error(scope: Scope, error: LLMServerError) -> JSONResponse | None:
    code = getattr(error, "code", None)
    if code is None:  # a bug: only errors that have a code may reach a caller
        return None
    if isinstance(error, InvalidInput):
        place = ("", error.within, error.field) if error.within else ("", error.field)
        fault = {"pointer": pointer(place), "detail": str(error)}
        return _described(scope, code, str(error), [fault])
    if isinstance(error, StorageMisconfigured):
        _log.error("the database cannot be used", extra={"cause": error.cause})
    response = _described(scope, code, str(error))
    response.headers.update(_advice(error))
    return response


def _advice(error: Exception) -> dict[str, str]:
    """Return the headers that tell a refused caller what to do (RFC 9110, 11.6.1 and 10.2.3)."""
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, TooManyRequests):
        used_up = RequestsLeft(most=error.max_requests, left=0, reset_s=error.retry_after_s)
        return {"Retry-After": str(error.retry_after_s), **rate_headers(used_up)}
    if isinstance(error, QuotaExceeded):
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _invalid_request(scope: Scope, error: RequestValidationError) -> JSONResponse:
    route = scope.get("route")
    faults = [{"pointer": pointer(f["loc"]), "detail": sentence(f, route)} for f in error.errors()[:MAX_FAULTS]]
    return _described(scope, "invalid_input", faults[0]["detail"], faults)


def _http_error(scope: Scope, error: StarletteHTTPException) -> Response | None:
    """Answer a call that the HTTP layer or the framework refused, and OPTIONS, for which no path has a route."""
    if isinstance(error, Refusal):
        return _described(scope, error.code, error.detail)
    if error.status_code == 404:
        return _described(scope, "path_not_found", NO_SUCH_PATH)
    if error.status_code == 405:
        allowed = _allowed(scope)
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        detail = f"This path does not support the method {scope['method'][:20]}; allowed are {allowed}."
        response = _described(scope, "method_not_allowed", detail)
        response.headers["Allow"] = allowed
        return response
    return None


def _allowed(scope: Scope) -> str:
    """Return all methods of a path (RFC 9110, 15.5.6); the framework names only those of the first matching route."""
    routes = scope["app"].router.routes
    scopes = [(method, {**scope, "method": method}) for method in _METHODS]
    methods = [name for name, scope in scopes if any(r.matches(scope)[0] is Match.FULL for r in routes)]
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
