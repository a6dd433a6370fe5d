"""The routes that change a stored task: each parses, calls one method of the service, and formats."""

from __future__ import annotations

from functools import partial

from fastapi import Response

from llm_server.api import views
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
from llm_server.api.routes.tasks import DEMONSTRATION, DEMONSTRATION_DOCS, LOCATION_DOCS, RETRY_AFTER_DOCS
from llm_server.api.schemas import new_task, tasks
from llm_server.orchestration.domain.snapshot import Snapshot

router = keyed_router("Tasks")
_RETRIED: Responses = {
    202: {
        "description": "The task, queued again.",
        "headers": header_docs(Location=LOCATION_DOCS, Retry_After=RETRY_AFTER_DOCS),
    },
}


def _changed_to(description: str) -> Responses:
    """Describe the response of a call that changed a task."""
    return {200: {"description": description, "headers": header_docs(LLM_Server_Demonstration=DEMONSTRATION_DOCS)}}


_DECIDED = problems(400, 404, 409, 413, 415, 422, 503)


@router.post(
    TASK_PATH + "/approve",
    summary="Approve a plan",
    response_model=tasks.TaskView,
    responses=_DECIDED | _changed_to("The task after the approval of its plan."),
)
async def approve_plan(
    ref: Ref, decision: new_task.PlanApproval, run: Run, service: Service, caller: Caller
) -> Response:
    """Approve the plan of a task that waits for approval; the server then carries out the steps.

    Approving the same plan again has no further effect.
    """
    approve = partial(
        service.approve,
        ref,
        decision.plan_hash,
        approve=True,
        payer=caller.payer,
        max_cost_microusd=decision.max_cost_microusd,
    )
    return _changed(await run.write(approve))


@router.post(
    TASK_PATH + "/reject",
    summary="Reject a plan",
    response_model=tasks.TaskView,
    responses=_DECIDED | _changed_to("The Cancelled task."),
)
async def reject_plan(ref: Ref, decision: new_task.PlanDecision, run: Run, service: Service) -> Response:
    """Reject the plan of a task that waits for approval; the task is Cancelled.

    Rejecting the same plan again has no further effect.
    """
    return _changed(await run.write(partial(service.approve, ref, decision.plan_hash, approve=False)))


@router.post(
    TASK_PATH + "/cancel",
    summary="Cancel a task",
    response_model=tasks.TaskView,
    responses=problems(404, 409, 422, 503) | _changed_to("The Cancelled task."),
)
async def cancel_task(ref: Ref, run: Run, service: Service) -> Response:
    """Cancel a task that is not final. Cancelling it again has no further effect."""
    return _changed(await run.write(partial(service.cancel, ref)))


@router.post(
    TASK_PATH + "/retry",
    status_code=202,
    summary="Retry a task",
    response_model=tasks.TaskView,
    responses=problems(404, 409, 422, 503) | _RETRIED,
)
async def retry_task(ref: Ref, run: Run, service: Service, caller: Caller) -> Response:
    """Queue a Failed task again. Its Completed steps are kept; its Failed and Skipped steps are carried out again."""
    snapshot = await run.write(partial(service.retry, ref, payer=caller.payer))
    headers = {"Location": f"{PREFIX}/tasks/{ref.task_id}", "Retry-After": "1"}
    return answer(views.task(snapshot.task), 202, headers)


@router.delete(
    TASK_PATH,
    status_code=204,
    summary="Delete a task",
    response_description="The task is deleted.",
    responses=problems(404, 409, 422, 503),
)
async def delete_task(ref: Ref, run: Run, service: Service) -> Response:
    """Delete a task with its prompt and result. A task that is not final is cancelled first.

    While a worker has the task, the call is refused (409).
    """
    await run.write(partial(service.delete, ref))
    return Response(status_code=204)


def _changed(snapshot: Snapshot) -> Response:
    """Respond with a task after the caller changed it; it may be final, and then has its result."""
    headers = DEMONSTRATION if snapshot.task.demonstration else None
    return answer(views.task(snapshot.task, snapshot.result), headers=headers)
