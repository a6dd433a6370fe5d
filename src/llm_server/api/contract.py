"""Shared parts of the routes: service, executor, caller, the task of a path, documented errors, and responses."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from llm_server.api import auth
from llm_server.api.error_codes import codes_of
from llm_server.api.executor import Executor
from llm_server.api.requests.routes import CALLER, OpenRoute, StrictRoute
from llm_server.orchestration import service as core
from llm_server.orchestration.domain import api_key as keys
from llm_server.orchestration.domain.errors import TaskNotFound
from llm_server.orchestration.domain.task import TaskRef

PREFIX = "/api/v1"
TASK_PATH = "/tasks/{task_id:task_id}"
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _TaskIdConvertor(Convertor[str]):
    """Matches a path segment that may be a task's id. `quote` is not one: `/tasks/quote` is a path of its own."""

    regex = "(?!quote$)[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("task_id", _TaskIdConvertor())
TaskIdInPath = Annotated[
    str,
    Path(
        description="The id of the task: the `task_id` in the response that created it.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
        json_schema_extra={"format": "uuid"},
    ),
]
Responses = dict[int | str, dict[str, Any]]
_PROBLEMS = {
    400: "The body is not a strict JSON document",
    401: "The call has no valid key",
    403: "The key lacks the scope of the call, or a server without keys does not accept the call's host or origin",
    404: "There is no such task, conversation, engine or key",
    405: "The path does not support this method",
    409: "The state of the task, conversation or key does not allow the call",
    413: "The body is too large",
    415: "The body was not sent as application/json in UTF-8, or is compressed",
    422: "A field or parameter is not valid",
    429: "A limit of the key is used up; see Retry-After",
    500: "The server failed to handle the request",
    503: "The database cannot be reached or used; see Retry-After",
}


def header_docs(**headers: tuple[str, str]) -> dict[str, Any]:
    """Describe headers of a response, each by its description and an example; an underscore stands for a hyphen."""
    return {
        name.replace("_", "-"): {"description": description, "schema": {"type": "string"}, "example": example}
        for name, (description, example) in headers.items()
    }


_RETRY_AFTER = {"headers": header_docs(Retry_After=("Seconds after which the same call may succeed.", "5"))}


def problems(*statuses: int) -> Responses:
    """Return the error responses of a route, as the OpenAPI document describes them.

    `document.py` adds their schema: FastAPI would prepare a `model` for each response of each route at a cold start.
    """
    return {status: _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    codes = ", ".join(f"`{name}`" for name in codes_of(status))
    described = {"description": f"{_PROBLEMS[status]}. `code` is one of {codes}."}
    return described | (_RETRY_AFTER if status in (429, 503) else {})


def keyed_router(tag: str) -> APIRouter:
    """Return a router whose routes check the caller's key before they read the body; `tag` groups them in the docs."""
    return APIRouter(
        prefix=PREFIX,
        tags=[tag],
        route_class=StrictRoute,
        responses=problems(401, 403, 422, 429, 500, 503),
        dependencies=[Security(auth.BEARER), Security(auth.HEADER)],
        generate_unique_id_function=_operation_id,
    )


def open_router(tag: str) -> APIRouter:
    """Return a router whose routes need no key."""
    return APIRouter(
        prefix=PREFIX,
        tags=[tag],
        route_class=OpenRoute,
        responses=problems(422, 500),
        generate_unique_id_function=_operation_id,
    )


def _operation_id(route: APIRoute) -> str:
    return route.name


def _service(request: Request) -> core.Service:
    service: core.Service = request.app.state.service
    return service


def _run(request: Request) -> Executor:
    """Return the executor; a route calls the service through it alone."""
    run: Executor = request.app.state.executor
    return run


def _caller(request: Request) -> keys.Caller:
    """Return the caller that `StrictRoute` admitted."""
    caller: keys.Caller = request.scope[CALLER]
    return caller


def _ref(task_id: TaskIdInPath, caller: Annotated[keys.Caller, Depends(_caller)]) -> TaskRef:
    """Return the task that a path names.

    Raises:
        TaskNotFound: the text does not have the form of a task's id, so the store is not read.
    """
    if not _TASK_ID.fullmatch(task_id):
        raise TaskNotFound
    return TaskRef(caller.tenant, task_id)


async def check_again(request: Request) -> None:
    """Check the caller's key while the response goes on. Raises Unauthenticated."""
    gate: auth.Gate = request.app.state.gate
    await gate.check_again(request)


Service = Annotated[core.Service, Depends(_service)]
Run = Annotated[Executor, Depends(_run)]
Caller = Annotated[keys.Caller, Depends(_caller)]
Ref = Annotated[TaskRef, Depends(_ref)]


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with `body` as JSON."""
    return Response(body.model_dump_json(), status, headers, "application/json")
