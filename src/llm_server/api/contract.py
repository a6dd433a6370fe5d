"""What every route shares: who calls, the errors it may answer, how it answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from llm_server.api import auth
from llm_server.api.body import StrictRoute
from llm_server.api.error_codes import codes_of
from llm_server.api.errors import MEDIA_TYPE
from llm_server.api.schemas.problem import Problem
from llm_server.orchestration import service as core
from llm_server.orchestration.domain import api_key as keys
from llm_server.orchestration.domain.errors import TaskNotFound
from llm_server.orchestration.domain.task import TaskRef

PREFIX = "/api/v1"
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Responses = dict[int | str, dict[str, Any]]
_PROBLEMS = {
    400: "The body is not a strict JSON document",
    401: "The call has no valid key",
    403: "The key lacks the scope",
    404: "There is no such task, engine or key",
    409: "The state of the task or key does not allow the call",
    413: "The body is too large",
    415: "The body was not sent as application/json",
    422: "A field or parameter is not valid",
    429: "A limit of the key is used up; see Retry-After",
    500: "The server failed to handle the request",
    503: "The database cannot be reached or used; see Retry-After",
}


def header_docs(**meanings: str) -> dict[str, Any]:
    """The headers of an answer, for its description; an underscore is a hyphen."""
    return {
        name.replace("_", "-"): {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
    }


_RETRY_AFTER = {"headers": header_docs(Retry_After="Seconds until the same call may succeed")}
_RATE = header_docs(
    RateLimit_Policy='`"requests";q=60;w=60`: the key allows 60 requests in 60 seconds. Absent where it sets no limit',
    RateLimit='`"requests";r=59;t=42`: 59 of them are left for the next 42 seconds',
)


def problems(*statuses: int) -> Responses:
    """The error answers of a route, for its description."""
    return {status: _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    codes = ", ".join(f"`{name}`" for name in codes_of(status))
    described = {"model": Problem, "description": f"{_PROBLEMS[status]}. `code` is one of {codes}."}
    return described | (_RETRY_AFTER if status in (429, 503) else {})


def describe_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Give every error answer its media type. Calling this again has no further effect."""
    for operation in (each for path in document["paths"].values() for each in path.values()):
        for status, described in operation["responses"].items():
            if status >= "400" and "application/json" in described["content"]:
                described["content"] = {MEDIA_TYPE: described["content"]["application/json"]}
    return document


def describe_rates(document: dict[str, Any]) -> dict[str, Any]:
    """Add what tells how many requests are left to every answer to a key that is known; twice is as once."""
    document["components"]["headers"] = _RATE
    references = {name: {"$ref": f"#/components/headers/{name}"} for name in _RATE}
    for operation in (each for path in document["paths"].values() for each in path.values() if "security" in each):
        for status, described in operation["responses"].items():
            if status != "401":
                described["headers"] = described.get("headers", {}) | references
    return document


def keyed_router() -> APIRouter:
    """Routes that ask for a key before they read the body."""
    return APIRouter(
        prefix=PREFIX,
        route_class=StrictRoute,
        responses=problems(401, 403, 422, 429, 500, 503),
        dependencies=[Security(auth.BEARER), Security(auth.HEADER)],
    )


async def _service(request: Request) -> core.Service:
    service: core.Service = request.app.state.service
    return service


async def _caller(request: Request) -> keys.Caller:
    """Who the route let in."""
    caller: keys.Caller = request.state.caller
    return caller


async def _ref(task_id: str, caller: Annotated[keys.Caller, Depends(_caller)]) -> TaskRef:
    """The task of a path; what no task can be called is unknown without a look."""
    if not _TASK_ID.fullmatch(task_id):
        raise TaskNotFound
    return TaskRef(caller.tenant, task_id)


Service = Annotated[core.Service, Depends(_service)]
Caller = Annotated[keys.Caller, Depends(_caller)]
Ref = Annotated[TaskRef, Depends(_ref)]


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """A model as it goes out."""
    return JSONResponse(body.model_dump(mode="json"), status, headers)
