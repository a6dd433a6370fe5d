"""The HTTP contract, everything below /api/v1: a route parses, calls one service method, formats."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from llm_server import __version__
from llm_server.api import auth, idempotency, inputs, models, server_models, views, waiting
from llm_server.api.body import StrictRoute
from llm_server.orchestration import key as keys
from llm_server.orchestration import service as core
from llm_server.orchestration.errors import TaskNotFound
from llm_server.orchestration.intake import Accepted
from llm_server.orchestration.snapshot import Snapshot
from llm_server.orchestration.task import Status, TaskRef

PREFIX = "/api/v1"
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Responses = dict[int | str, dict[str, Any]]
_PROBLEMS = {
    400: "Not a strict JSON document",
    401: "No valid key",
    403: "The key lacks the scope",
    404: "No such task, engine or key",
    409: "The task's state does not allow it",
    413: "Body too large",
    415: "Body not sent as application/json",
    422: "An invalid field",
    429: "A limit of the key is used up; see Retry-After",
    500: "The server made an error",
    503: "The store cannot be reached; see Retry-After",
}


def _problems(*statuses: int) -> _Responses:
    return {status: {"model": server_models.Problem, "description": _PROBLEMS[status]} for status in statuses}


def _headers(**meanings: str) -> dict[str, Any]:
    return {
        name.replace("_", "-"): {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
    }


_CREATED: _Responses = {
    200: {
        "model": models.TaskView | models.DecisionView,
        "description": "Final within `Prefer: wait`, a task that its Idempotency-Key made before, or a dry run",
        "headers": _headers(
            Location="The task",
            Preference_Applied="The wait that was granted",
            Idempotent_Replayed="true: an earlier call with this Idempotency-Key made the task",
            Retry_After="Seconds; absent when final",
        ),
    },
    202: {"headers": _headers(Location="The task", Retry_After="Seconds until it is worth looking")},
}
_CREATED_AGAIN: _Responses = {202: _CREATED[202]}
_READ: _Responses = {
    200: {"headers": _headers(ETag="This state of the task", Retry_After="Seconds; absent when final")},
    304: {"description": "Not changed since the ETag in If-None-Match"},
}

router = APIRouter(
    prefix=PREFIX,
    route_class=StrictRoute,
    responses=_problems(401, 403, 429, 500, 503),
    dependencies=[Security(auth.BEARER), Security(auth.HEADER)],
)
health = APIRouter(prefix=PREFIX, responses=_problems(500))
"""What is open to everybody."""


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
HeaderList = list[str] | SkipJsonSchema[None]
"""Several lines of a header are one list, as several words of one line are (RFC 9110, 5.3)."""


@router.post(
    "/tasks",
    status_code=202,
    response_model=models.TaskView,
    responses=_problems(400, 409, 413, 415, 422, 503) | _CREATED,
)
async def create_task(
    request: Request,
    new: inputs.NewTask,
    service: Service,
    caller: Caller,
    dry_run: Annotated[bool, Query(description="Only decide how it would be done.")] = False,
    prefer: Annotated[HeaderList, Header(description="wait=N: hold the answer up to N seconds (at most 25).")] = None,
    idempotency_key: idempotency.KeyHeader = None,
) -> Response:
    """Accept a task: it is stored and queued before the answer is sent."""
    key = idempotency.key_of(idempotency_key)
    if dry_run:
        return _json(views.decision(service.decide(new.to_domain())))
    accepted = service.submit_once(caller.tenant, new.to_domain(), key, payer=caller.payer)
    wait_s = waiting.wished_s(",".join(prefer or ()))
    ended = await waiting.until_final(service, accepted.task.ref, wait_s, request.app.state.stopping)
    return _accepted(accepted, ended, wait_s)


@router.get("/tasks", response_model=models.TaskPage, responses=_problems(422, 503))
async def list_tasks(
    service: Service,
    caller: Caller,
    status: Annotated[Status | None, Query()] = None,
    role: Annotated[str | None, Query(max_length=100)] = None,
    page_size: Annotated[int, Query(ge=1, le=100)] = 50,
    page_token: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """List the caller's tasks, newest first."""
    return _json(views.page(service.page(caller.tenant, size=page_size, token=page_token, status=status, role=role)))


@router.get(
    "/tasks/{task_id}",
    response_model=models.TaskDetail,
    responses=_problems(404, 422, 503) | _READ,
)
async def get_task(
    ref: Ref,
    service: Service,
    if_none_match: Annotated[HeaderList, Header()] = None,
) -> Response:
    """Read everything about a task."""
    snapshot = service.get(ref)
    headers = _freshness(snapshot, service.now_ms())
    if _matches(",".join(if_none_match or ()), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _json(views.detail(snapshot), headers=headers)


_DECIDED = _problems(400, 404, 409, 413, 415, 422, 503)


@router.post("/tasks/{task_id}/approve", response_model=models.TaskView, responses=_DECIDED)
async def approve_plan(ref: Ref, said: inputs.PlanDecision, service: Service) -> Response:
    """Let a plan that waits be carried out; the same word again changes nothing."""
    snapshot = service.approve(ref, said.plan_hash, approve=True)
    return _json(views.task(snapshot.task, snapshot.result))


@router.post("/tasks/{task_id}/reject", response_model=models.TaskView, responses=_DECIDED)
async def reject_plan(ref: Ref, said: inputs.PlanDecision, service: Service) -> Response:
    """Cancel a task whose plan waits; the same word again changes nothing."""
    snapshot = service.approve(ref, said.plan_hash, approve=False)
    return _json(views.task(snapshot.task, snapshot.result))


@router.post("/tasks/{task_id}/cancel", response_model=models.TaskView, responses=_problems(404, 409, 422, 503))
async def cancel_task(ref: Ref, service: Service) -> Response:
    """End a task that is not final; cancelled again, nothing changes."""
    snapshot = service.cancel(ref)
    return _json(views.task(snapshot.task, snapshot.result))


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    response_model=models.TaskView,
    responses=_problems(404, 409, 422, 503) | _CREATED_AGAIN,
)
async def retry_task(ref: Ref, service: Service) -> Response:
    """Take a Failed task up again: finished steps are kept, those that failed are done again."""
    snapshot = service.retry(ref)
    headers = {"Location": f"{PREFIX}/tasks/{ref.task_id}", "Retry-After": "1"}
    return _json(views.task(snapshot.task), 202, headers)


@router.delete("/tasks/{task_id}", status_code=204, responses=_problems(404, 409, 422, 503))
async def delete_task(ref: Ref, service: Service) -> Response:
    """Remove a task that no worker has, with its prompt and result; an open one is cancelled first."""
    service.delete(ref)
    return Response(status_code=204)


@router.get("/metrics", response_model=server_models.MetricsView, responses=_problems(503))
async def get_metrics(service: Service) -> Response:
    """Read the nine figures."""
    return _json(server_models.MetricsView.model_validate(service.metrics()))


@router.get("/usage", response_model=server_models.UsageView, responses=_problems(503))
async def get_usage(service: Service, caller: Caller) -> Response:
    """Read what the caller's tenant spent today, and what its key allows and has used."""
    return _json(views.usage(service.usage(caller)))


@router.get("/catalog", response_model=server_models.CatalogView)
async def get_catalog(service: Service) -> Response:
    """Show the configured profiles, roles and engines; `toggle` and `locked` as they were switched since."""
    return _json(views.catalog(service.catalog, service.engine_specs()))


@router.get("/engines", response_model=server_models.EnginesView, responses=_problems(503))
async def get_engines(service: Service) -> Response:
    """Show every engine, how it is switched and how it is."""
    return _json(views.engines(service.engines()))


@router.patch(
    "/engines/{name:path}",  # a configured name may hold a slash
    response_model=server_models.EngineNowView,
    responses=_problems(400, 404, 413, 415, 422, 503),
)
async def switch_engine(name: str, change: inputs.EngineChange, service: Service) -> Response:
    """Switch an engine on or off, lock or unlock it: everywhere within 5 s, until it is switched again."""
    return _json(views.engine(service.switch_engine(name, change.to_domain())))


@router.get("/keys", response_model=server_models.KeyList)
async def list_keys(service: Service) -> Response:
    """List every tenant's keys, without their secrets."""
    return _json(server_models.KeyList(keys=[views.key(key) for key in service.keys.all()]))


@router.post("/keys", status_code=201, response_model=server_models.CreatedKey, responses=_problems(400, 413, 415, 422))
async def create_key(new: inputs.NewKey, service: Service) -> Response:
    """Make a key; its token is in this answer and in no other. After the first, every call needs a key."""
    made, token = service.keys.create(new.tenant, new.scopes, limits=new.limits.to_domain(), name=new.name)
    return _json(views.created_key(made, token), 201)


@router.delete("/keys/{key_id}", status_code=204, responses=_problems(404, 422))
async def revoke_key(key_id: str, service: Service) -> Response:
    """Refuse a key from now on (other processes within a minute); once more changes nothing."""
    service.keys.revoke(key_id)
    return Response(status_code=204)


@health.get("/health", response_model=server_models.HealthView)
async def get_health() -> Response:
    """Tell that the process answers; touches neither store nor engine."""
    return _json(server_models.HealthView(status="ok", version=__version__))


def _json(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body.model_dump(mode="json"), status, headers)


def _accepted(accepted: Accepted, ended: Snapshot | None, wait_s: int) -> Response:
    """202, or 200 for what is final and for what was accepted before."""
    task, result = (ended.task, ended.result) if ended else (accepted.task, accepted.result)
    headers = {"Location": f"{PREFIX}/tasks/{task.task_id}"}
    if ended:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if not task.status.is_final:
        headers["Retry-After"] = "1"
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return _json(views.task(task, result), 200 if ended or accepted.replayed else 202, headers)


def _freshness(snapshot: Snapshot, now_ms: int) -> dict[str, str]:
    headers = {"ETag": f'"{snapshot.task.rev}"', "Cache-Control": "private, no-cache"}
    if not snapshot.task.status.is_final:
        headers["Retry-After"] = str(waiting.retry_after_s(snapshot.task, now_ms))
    return headers


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110 section 13.1.2, weak comparison."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
