"""The route of chat completions."""

from __future__ import annotations

from functools import partial

from fastapi import Request, Response

from llm_server.api import idempotency, waiting
from llm_server.api.contract import Caller, Run, Service, check_again
from llm_server.api.openai import calls, errors, repeating
from llm_server.api.openai.answers import chat as answers
from llm_server.api.openai.answers import receipt
from llm_server.api.openai.answers.failure import failure
from llm_server.api.openai.calls import Fields, answer, wait_s
from llm_server.api.openai.requests import chat
from llm_server.api.openai.requests.reading import Part
from llm_server.api.openai.requests.target import target
from llm_server.api.openai.telling import ChatTelling
from llm_server.api.streams.answers import told
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status

router = calls.router()


@router.post("/chat/completions")
async def create_completion(
    request: Request,
    fields: Fields,
    run: Run,
    service: Service,
    caller: Caller,
    idempotency_key: idempotency.KeyHeader = None,
) -> Response:
    """Carry out a task, and answer with its result as a chat completion, or stream it."""
    body, once = Part(fields), await repeating.once(request, caller, idempotency_key)
    model = body.needed_text("model")
    new, with_usage = chat.new_task(body, target(model, service.catalog)), chat.includes_usage(body)
    accepted, watch = await waiting.submit(service, run, caller, new, once, waits=not new.stream)
    task = accepted.task
    if new.stream:
        chunks = answers.Chunks(task.task_id, task.created_ms, model, with_usage=with_usage)
        feed = run.follow(lambda number: service.events(task.ref, after=number), task.ref, 0)
        telling = ChatTelling(task.task_id, chunks, partial(run.read, partial(service.get, task.ref)))
        check = partial(check_again, request)
        with errors.accepted(task.task_id):
            response = await told(feed, telling, request.scope, lasts=run.streams, check_caller=check)
        response.headers["x-llm-server-task-id"] = task.task_id
        return response
    if watch:
        await watch.ended(waiting.possible_s(wait_s(run), request.scope))
    with errors.accepted(task.task_id):
        snapshot = await run.read(partial(service.get, task.ref))
    return _completed(snapshot, model, service.now_ms())


def _completed(snapshot: Snapshot, model: str, now_ms: int) -> Response:
    """Answer with a Completed task. Raises DialectError for any other."""
    if snapshot.task.status is not Status.COMPLETED:
        raise failure(snapshot)
    return answer(answers.completion(snapshot, model), receipt.headers(snapshot, now_ms))
