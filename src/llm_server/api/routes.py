"""The HTTP contract, everything below /api/v1: a route parses, calls one service method, formats."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from llm_server import __version__
from llm_server.api import models, views, waiting
from llm_server.api.body import StrictRoute
from llm_server.orchestration import service as core
from llm_server.orchestration.task import Snapshot, Status, TaskRef

PREFIX = "/api/v1"
_PROBLEMS: dict[int | str, dict[str, object]] = {
    400: {"model": models.Problem, "description": "Not a strict JSON document"},
    404: {"model": models.Problem, "description": "No such thing"},
    413: {"model": models.Problem, "description": "Body too large"},
    415: {"model": models.Problem, "description": "Body not sent as application/json"},
    422: {"model": models.Problem, "description": "An invalid field"},
    503: {"model": models.Problem, "description": "The store cannot be reached; see Retry-After"},
}


def _problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: _PROBLEMS[status] for status in statuses}


router = APIRouter(prefix=PREFIX, route_class=StrictRoute)


async def _service(request: Request) -> core.Service:
    service: core.Service = request.app.state.service
    return service


async def _tenant() -> str:
    """Whose call it is; everybody's, until keys tell callers apart."""
    return "local"


Service = Annotated[core.Service, Depends(_service)]
Tenant = Annotated[str, Depends(_tenant)]
TaskId = str


@router.post(
    "/tasks",
    status_code=202,
    response_model=models.TaskView,
    responses=_problems(400, 413, 415, 422, 503)
    | {200: {"model": models.TaskView | models.DecisionView, "description": "Final within `Prefer: wait`, or a dry run"}},
)
async def create_task(
    request: Request,
    new: models.NewTask,
    service: Service,
    tenant: Tenant,
    dry_run: Annotated[bool, Query(description="Only decide how it would be done.")] = False,
    prefer: Annotated[str | None, Header(description="wait=N: hold the answer up to N seconds (at most 25).")] = None,
) -> Response:
    """Accept a task: it is stored and queued before the answer is sent."""
    if dry_run:
        return _json(views.decision(service.decide(new.to_domain())))
    task = service.submit(tenant, new.to_domain())
    wait_s = waiting.wished_s(prefer)
    if await waiting.until_final(service, task.ref, wait_s, request.app.state.stopping):
        snapshot = service.get(task.ref)
        headers = {"Location": _location(task.task_id), "Preference-Applied": f"wait={wait_s}"}
        return _json(views.task(snapshot.task, snapshot.result), headers=headers)
    return _json(views.task(task), 202, {"Location": _location(task.task_id), "Retry-After": "1"})


@router.get("/tasks", response_model=models.TaskPage, responses=_problems(422, 503))
async def list_tasks(
    service: Service,
    tenant: Tenant,
    status: Annotated[Status | None, Query()] = None,
    role: Annotated[str | None, Query(max_length=100)] = None,
    page_size: Annotated[int, Query(ge=1, le=100)] = 50,
    page_token: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """List the caller's tasks, newest first."""
    return _json(views.page(service.page(tenant, size=page_size, token=page_token, status=status, role=role)))


@router.get(
    "/tasks/{task_id}",
    response_model=models.TaskDetail,
    responses=_problems(404, 422, 503) | {304: {"description": "Not changed since the ETag in If-None-Match"}},
)
async def get_task(
    task_id: TaskId,
    service: Service,
    tenant: Tenant,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Read everything about a task."""
    snapshot = service.get(TaskRef(tenant, task_id))
    headers = _freshness(snapshot, service.now_ms())
    if _matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _json(views.detail(snapshot), headers=headers)


@router.get("/metrics", response_model=models.MetricsView, responses=_problems(503))
async def get_metrics(service: Service) -> Response:
    """Read the nine figures."""
    return _json(models.MetricsView.model_validate(service.metrics()))


@router.get("/usage", response_model=models.UsageView, responses=_problems(503))
async def get_usage(service: Service, tenant: Tenant) -> Response:
    """Read what the caller's tenant spent today and has in flight."""
    return _json(views.usage(service.usage(tenant)))


@router.get("/catalog", response_model=models.CatalogView)
async def get_catalog(service: Service) -> Response:
    """Show the configured profiles, roles and engines."""
    return _json(views.catalog(service.catalog))


@router.get("/health", response_model=models.HealthView)
async def get_health() -> Response:
    """Tell that the process answers; touches neither store nor engine."""
    return _json(models.HealthView(status="ok", version=__version__))


def _json(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body.model_dump(mode="json"), status, headers)


def _location(task_id: str) -> str:
    return f"{PREFIX}/tasks/{task_id}"


def _freshness(snapshot: Snapshot, now_ms: int) -> dict[str, str]:
    headers = {"ETag": f'"{snapshot.task.rev}"', "Cache-Control": "private, no-cache"}
    if not snapshot.task.status.is_final:
        headers["Retry-After"] = str(waiting.retry_after_s(snapshot.task, now_ms))
    return headers


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110 section 13.1.2, weak comparison."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags
