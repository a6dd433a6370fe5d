"""The routes that create and read tasks: each parses, calls one method of the service, and formats."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from llm_server.api import filters, idempotency, views, waiting
from llm_server.api.contract import (
    PREFIX,
    TASK_PATH,
    Caller,
    Ref,
    Responses,
    Run,
    Service,
    answer,
    header_docs,
    keyed_router,
    problems,
)
from llm_server.api.freshness import matches
from llm_server.api.schemas import new_task, tasks
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.tasks.intake import Accepted

LOCATION_DOCS = ("The path of the task.", "/api/v1/tasks/01a205c3-cd94-748c-a7f0-50965914d0b5")
RETRY_AFTER_DOCS = ("Seconds to wait before reading the task again; absent when the task is final.", "1")
DEMONSTRATION_DOCS = (
    "`true` when the demonstration engine or the embedded engine gave the result; else absent.",
    "true",
)
_CREATED: Responses = {
    200: {
        "model": tasks.TaskView | tasks.DecisionView,
        "description": "A task that became final within `Prefer: wait`, the task that an earlier call with this "
        "`Idempotency-Key` created, or, with `dry_run`, the decision.",
        "headers": header_docs(
            Location=LOCATION_DOCS,
            Preference_Applied=("The granted wait in seconds; absent unless the task became final in it.", "wait=20"),
            Idempotent_Replayed=("`true` when an earlier call with this `Idempotency-Key` created the task.", "true"),
            Retry_After=RETRY_AFTER_DOCS,
            LLM_Server_Demonstration=DEMONSTRATION_DOCS,
        ),
    },
    202: {
        "description": "The task, stored and queued.",
        "headers": header_docs(Location=LOCATION_DOCS, Retry_After=RETRY_AFTER_DOCS),
    },
}
DEMONSTRATION = {"LLM-Server-Demonstration": "true"}
"""The header of responses about a task whose result the embedded engine gave."""
_ETAG = ("Identifies this state of the task; send it as `If-None-Match` to ask whether the task has changed.", '"4"')
_READ: Responses = {
    200: {
        "description": "The task.",
        "headers": header_docs(ETag=_ETAG, Retry_After=RETRY_AFTER_DOCS, LLM_Server_Demonstration=DEMONSTRATION_DOCS),
    },
    304: {
        "description": "The task still has the state that `If-None-Match` names.",
        "headers": header_docs(ETag=_ETAG, Retry_After=RETRY_AFTER_DOCS, LLM_Server_Demonstration=DEMONSTRATION_DOCS),
    },
}


router = keyed_router("Tasks")
HeaderLines = Annotated[list[str], WithJsonSchema({"type": "string"})] | SkipJsonSchema[None]
"""A header that may be sent on several lines (RFC 9110, 5.3).

The OpenAPI document describes it as one string, because clients send one line.
"""
Prefer = Annotated[
    HeaderLines,
    Header(
        alias="Prefer",
        description="`wait=N` holds the response until the task is final, for at most N seconds (up to 25).",
        examples=["wait=20"],
    ),
]
IfNoneMatch = Annotated[
    HeaderLines,
    Header(
        alias="If-None-Match",
        description="The `ETag` of an earlier response. If the task has not changed since, the response is 304.",
        examples=['"4"'],
    ),
]
DryRun = Annotated[
    bool,
    Query(
        description="Create no task; only decide how it would be carried out, like `POST /api/v1/tasks/quote`.",
        examples=[False],
    ),
]


@router.post(
    "/tasks",
    status_code=202,
    summary="Create a task",
    response_model=tasks.TaskView,
    responses=problems(400, 409, 413, 415, 422, 503) | _CREATED,
)
async def create_task(
    request: Request,
    new: new_task.NewTask,
    run: Run,
    service: Service,
    caller: Caller,
    dry_run: DryRun = False,
    prefer: Prefer = None,
    idempotency_key: idempotency.KeyHeader = None,
) -> Response:
    """Store and queue a task. With `Prefer: wait=N`, respond when it is final, or after N seconds at the latest."""
    key = idempotency.key_of(idempotency_key)
    if dry_run:
        return answer(
            views.decision(await run.read(partial(service.quote, caller.tenant, new.to_domain(), payer=caller.payer)))
        )
    wait_s = waiting.wished_s(",".join(prefer or ()))
    accepted, watch = await waiting.submit(service, run, caller, new.to_domain(), key, waits=wait_s > 0)
    ended = await watch.ended(waiting.possible_s(wait_s, request.scope)) if watch else None
    return _accepted(accepted, ended, wait_s)


@router.post(
    "/tasks/quote",
    summary="Decide without creating a task",
    response_model=tasks.DecisionView,
    response_description="How the server would carry out the task.",
    responses=problems(400, 409, 413, 415, 422, 503),
)
async def quote_task(new: new_task.NewTask, run: Run, service: Service, caller: Caller) -> Response:
    """Decide the mode, the role and the engine of a task. The server stores no task and calls no engine."""
    return answer(
        views.decision(await run.read(partial(service.quote, caller.tenant, new.to_domain(), payer=caller.payer)))
    )


@router.get(
    "/tasks",
    summary="List tasks",
    response_model=tasks.TaskPage,
    response_description="One page of tasks.",
    responses=problems(422, 503),
    openapi_extra={"parameters": [filters.METADATA_PARAMETER]},
)
async def list_tasks(
    run: Run,
    service: Service,
    caller: Caller,
    labels: filters.Labels,
    status: filters.Statuses = [],  # noqa: B006 -- it is not changed
    role: filters.RoleName = None,
    mode: filters.ModeName = None,
    engine: filters.EngineName = None,
    awaiting_approval: filters.AwaitingApproval = None,
    created_from: filters.CreatedFrom = None,
    created_to: filters.CreatedTo = None,
    page_size: Annotated[int, Query(ge=1, le=100, description="The most tasks of one page.", examples=[50])] = 50,
    page_token: Annotated[
        str, Query(max_length=500, description="The `next_page_token` of the page before.", examples=[""])
    ] = "",
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
    list_page = partial(service.page, caller.tenant, size=page_size, token=page_token, task_filter=wanted)
    return answer(views.page(await run.read(list_page)))


@router.get(
    TASK_PATH,
    summary="Read a task",
    response_model=tasks.TaskDetail,
    responses=problems(404, 422, 503) | _READ,
)
async def get_task(ref: Ref, run: Run, service: Service, if_none_match: IfNoneMatch = None) -> Response:
    """Read the state of a task with its result, plan, engine calls and history."""
    snapshot = await run.read(partial(service.get, ref))
    headers = _freshness(snapshot, service.now_ms())
    if matches(",".join(if_none_match or ()), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    quote = await run.read(partial(service.quote_of_plan, snapshot)) if snapshot.task.awaits_approval else None
    return answer(views.detail(snapshot, quote), headers=headers)


def _accepted(accepted: Accepted, ended: Accepted | None, wait_s: int) -> Response:
    """Respond with 200 if the task is final or was accepted by an earlier call, else with 202."""
    task, result = (ended.task, ended.result) if ended else (accepted.task, accepted.result)
    headers = {"Location": f"{PREFIX}/tasks/{task.task_id}"}
    if ended or (wait_s and task.status.is_final):
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
