"""The tasks of the HTTP contract: a route parses, calls one service method, formats."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from llm_server.api import filters, idempotency, views, waiting
from llm_server.api.contract import PREFIX, Caller, Ref, Responses, Service, answer, header_docs, keyed_router, problems
from llm_server.api.schemas import new_task, tasks
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.tasks.intake import Accepted

_CREATED: Responses = {
    200: {
        "model": tasks.TaskView | tasks.DecisionView,
        "description": "Final within `Prefer: wait`, a task that its Idempotency-Key made before, or a dry run",
        "headers": header_docs(
            Location="The task",
            Preference_Applied="The wait that was granted",
            Idempotent_Replayed="true: another call with this Idempotency-Key made the task",
            Retry_After="Seconds; absent when final",
            LLM_Server_Demonstration="true: the embedded engine gave the result; no LLM was asked",
        ),
    },
    202: {"headers": header_docs(Location="The task", Retry_After="Seconds until it is worth looking")},
}
DEMONSTRATION = {"LLM-Server-Demonstration": "true"}
"""On answers of a task whose result the embedded engine gave."""
_CREATED_AGAIN: Responses = {202: _CREATED[202]}
_READ: Responses = {
    200: {
        "headers": header_docs(
            ETag="This state of the task",
            Retry_After="Seconds; absent when final",
            LLM_Server_Demonstration="true: the embedded engine gave the result; no LLM was asked",
        )
    },
    304: {"description": "Not changed since the ETag in If-None-Match"},
}

router = keyed_router()
HeaderList = list[str] | SkipJsonSchema[None]
"""Several lines of a header are one list, as several words of one line are (RFC 9110, 5.3)."""


@router.post(
    "/tasks",
    status_code=202,
    response_model=tasks.TaskView,
    responses=problems(400, 409, 413, 415, 422, 503) | _CREATED,
)
async def create_task(
    request: Request,
    new: new_task.NewTask,
    service: Service,
    caller: Caller,
    dry_run: Annotated[bool, Query(description="Only decide how it would be done.")] = False,
    prefer: Annotated[HeaderList, Header(description="wait=N: hold the answer up to N seconds (at most 25).")] = None,
    idempotency_key: idempotency.KeyHeader = None,
) -> Response:
    """Accept a task: it is stored and queued before the answer is sent."""
    key = idempotency.key_of(idempotency_key)
    if dry_run:
        return answer(views.decision(service.decide(new.to_domain())))
    accepted = service.submit_once(caller.tenant, new.to_domain(), key, payer=caller.payer)
    wait_s = waiting.wished_s(",".join(prefer or ()))
    possible_s = waiting.possible_s(wait_s, request.scope)
    ended = await waiting.until_final(service, accepted.task.ref, possible_s, request.app.state.stopping)
    return _accepted(accepted, ended, wait_s)


@router.get(
    "/tasks",
    response_model=tasks.TaskPage,
    responses=problems(422, 503),
    openapi_extra={"parameters": [filters.METADATA_PARAMETER]},
)
async def list_tasks(
    service: Service,
    caller: Caller,
    labels: filters.Labels,
    status: filters.Statuses = [],  # noqa: B006 -- FastAPI copies it
    role: filters.RoleName = None,
    mode: filters.ModeName = None,
    engine: filters.EngineName = None,
    awaiting_approval: filters.AwaitingApproval = None,
    created_from: filters.CreatedFrom = None,
    created_to: filters.CreatedTo = None,
    page_size: Annotated[int, Query(ge=1, le=100, description="The most tasks that a page has.")] = 50,
    page_token: Annotated[str, Query(max_length=500, description="`next_page_token` of the page before.")] = "",
) -> Response:
    """List the caller's tasks that pass every given filter, newest first.

    One call looks at a limited number of tasks, so a page can be shorter than `page_size`, or empty, and still have a
    `next_page_token`. Send the token with the same filters to go on; the list ends where the token is "".
    """
    wanted = filters.task_filter(
        statuses=status,
        role=role,
        mode=mode,
        engine=engine,
        labels=labels,
        awaiting_approval=awaiting_approval,
        created_from=created_from,
        created_to=created_to,
    )
    return answer(views.page(service.page(caller.tenant, size=page_size, token=page_token, task_filter=wanted)))


@router.get(
    "/tasks/{task_id}",
    response_model=tasks.TaskDetail,
    responses=problems(404, 422, 503) | _READ,
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
    return answer(views.detail(snapshot), headers=headers)


_DECIDED = problems(400, 404, 409, 413, 415, 422, 503)


@router.post("/tasks/{task_id}/approve", response_model=tasks.TaskView, responses=_DECIDED)
async def approve_plan(ref: Ref, said: new_task.PlanDecision, service: Service) -> Response:
    """Let a plan that waits be carried out; the same word again changes nothing."""
    return _changed(service.approve(ref, said.plan_hash, approve=True))


@router.post("/tasks/{task_id}/reject", response_model=tasks.TaskView, responses=_DECIDED)
async def reject_plan(ref: Ref, said: new_task.PlanDecision, service: Service) -> Response:
    """Cancel a task whose plan waits; the same word again changes nothing."""
    return _changed(service.approve(ref, said.plan_hash, approve=False))


@router.post("/tasks/{task_id}/cancel", response_model=tasks.TaskView, responses=problems(404, 409, 422, 503))
async def cancel_task(ref: Ref, service: Service) -> Response:
    """End a task that is not final; cancelled again, nothing changes."""
    return _changed(service.cancel(ref))


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    response_model=tasks.TaskView,
    responses=problems(404, 409, 422, 503) | _CREATED_AGAIN,
)
async def retry_task(ref: Ref, service: Service, caller: Caller) -> Response:
    """Take a Failed task up again: finished steps are kept, those that failed are done again."""
    snapshot = service.retry(ref, payer=caller.payer)
    headers = {"Location": f"{PREFIX}/tasks/{ref.task_id}", "Retry-After": "1"}
    return answer(views.task(snapshot.task), 202, headers)


@router.delete("/tasks/{task_id}", status_code=204, responses=problems(404, 409, 422, 503))
async def delete_task(ref: Ref, service: Service) -> Response:
    """Remove a task that no worker has, with its prompt and result; an open one is cancelled first."""
    service.delete(ref)
    return Response(status_code=204)


def _changed(snapshot: Snapshot) -> Response:
    """The task after a caller's decision, which may be final already."""
    headers = DEMONSTRATION if snapshot.task.demonstration else None
    return answer(views.task(snapshot.task, snapshot.result), headers=headers)


def _accepted(accepted: Accepted, ended: Snapshot | None, wait_s: int) -> Response:
    """202, or 200 for what is final and for what was accepted before."""
    task, result = (ended.task, ended.result) if ended else (accepted.task, accepted.result)
    headers = {"Location": f"{PREFIX}/tasks/{task.task_id}"}
    if ended:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if not task.status.is_final:
        headers["Retry-After"] = "1"
    if task.demonstration:
        headers |= DEMONSTRATION
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return answer(views.task(task, result), 200 if ended or accepted.replayed else 202, headers)


def _freshness(snapshot: Snapshot, now_ms: int) -> dict[str, str]:
    headers = {"ETag": f'"{snapshot.task.rev}"', "Cache-Control": "private, no-cache"}
    if not snapshot.task.status.is_final:
        headers["Retry-After"] = str(waiting.retry_after_s(snapshot.task, now_ms))
    if snapshot.task.demonstration:
        headers |= DEMONSTRATION
    return headers


def _matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110 section 13.1.2, weak comparison."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
