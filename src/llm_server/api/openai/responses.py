"""The routes of responses."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response

from llm_server.api import idempotency, waiting
from llm_server.api.contract import Caller, Run, Service, check_again
from llm_server.api.openai import calls, errors, ids, repeating
from llm_server.api.openai.answers import items, receipt
from llm_server.api.openai.answers.narration import Narration
from llm_server.api.openai.answers.response import response
from llm_server.api.openai.calls import After, Fields, Include, Limit, Order, Ref, answer, wait_s
from llm_server.api.openai.requests import counting, responses
from llm_server.api.openai.requests.reading import Part
from llm_server.api.openai.requests.target import target
from llm_server.api.openai.state import cancelled, sequence_number
from llm_server.api.openai.telling import ResponseTelling
from llm_server.api.streams.answers import told
from llm_server.orchestration import service as core
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.quotes.quote import Quote

router = calls.router()
StartingAfter = Annotated[str | None, Query()]


@router.post("/responses")
async def create_response(
    request: Request,
    fields: Fields,
    run: Run,
    service: Service,
    caller: Caller,
    idempotency_key: idempotency.KeyHeader = None,
) -> Response:
    """Create a task, and answer with it: as it ends, as it is (`background`), or as a stream."""
    body, once = Part(fields), await repeating.once(request, caller, idempotency_key)
    new = responses.new_task(body, target(body.text("model") or "auto", service.catalog))
    waits = not (new.stream or body.flag("background"))
    accepted, watch = await waiting.submit(service, run, caller, new, once, waits=waits)
    if watch:
        await watch.ended(waiting.possible_s(wait_s(run), request.scope))
    with errors.accepted(accepted.task.task_id):
        snapshot = await run.read(partial(service.get, accepted.task.ref))
        if new.stream:
            return await _stream(snapshot, request, run, service, after=-1)
    return _answer(snapshot, service)


@router.post("/responses/input_tokens")
async def count_tokens(fields: Fields) -> Response:
    """Estimate the tokens of an input, without an engine."""
    return answer({"object": "response.input_tokens", "input_tokens": counting.tokens(Part(fields))})


@router.get("/responses/{response_id}")
async def get_response(
    request: Request,
    ref: Ref,
    run: Run,
    service: Service,
    stream: bool = False,
    starting_after: StartingAfter = None,
    include: Include = None,  # noqa: ARG001 - ignored
    include_obfuscation: bool = False,  # noqa: ARG001 - ignored
) -> Response:
    """Read a task as a response, or its events as a stream."""
    after = sequence_number(starting_after)
    snapshot = await run.read(partial(service.get, ref))
    if stream:
        return await _stream(snapshot, request, run, service, after=after)
    quote = await run.read(partial(service.quote_of_plan, snapshot)) if snapshot.task.awaits_approval else None
    return _answer(snapshot, service, quote)


@router.post("/responses/{response_id}/cancel")
async def cancel_response(ref: Ref, run: Run, service: Service) -> Response:
    """Cancel a task that is not final. Cancelling it again has no further effect."""
    return _answer(await run.write(partial(cancelled, service, ref)), service)


@router.delete("/responses/{response_id}")
async def delete_response(ref: Ref, run: Run, service: Service) -> Response:
    """Delete a task. A task that is not final is cancelled first."""
    await run.write(partial(service.delete, ref))
    return answer({"id": ids.response(ref.task_id), "object": "response", "deleted": True})


@router.get("/responses/{response_id}/input_items")
async def list_input_items(
    ref: Ref,
    run: Run,
    service: Service,
    after: After = None,
    limit: Limit = 20,
    order: Order = "desc",
    include: Include = None,  # noqa: ARG001 - ignored
) -> Response:
    """List the items that the task was sent."""
    snapshot = await run.read(partial(service.get, ref))
    found = items.input_of(ref.task_id, snapshot.request)
    return answer(items.page(found, after=after, limit=limit, newest_first=order == "desc"))


def _answer(snapshot: Snapshot, service: core.Service, quote: Quote | None = None) -> Response:
    return answer(response(snapshot, quote=quote), receipt.headers(snapshot, service.now_ms()))


async def _stream(snapshot: Snapshot, request: Request, run: Run, service: Service, *, after: int) -> Response:
    """Stream the events of a task. They are derived from its first event on, whatever `after` is."""
    ref: TaskRef = snapshot.task.ref
    feed = run.follow(lambda number: service.events(ref, after=number), ref, 0)
    telling = ResponseTelling(Narration(snapshot), partial(run.read, partial(service.get, ref)), after=after)
    check = partial(check_again, request)
    streamed = await told(feed, telling, request.scope, lasts=run.streams, check_caller=check)
    streamed.headers["x-llm-server-task-id"] = ref.task_id
    return streamed
