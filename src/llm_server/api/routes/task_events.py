"""The route that tells the events of a task: as a page, as a long poll, or as a stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Header, Query, Request, Response

from llm_server.api.contract import (
    TASK_PATH,
    Ref,
    Responses,
    Run,
    Service,
    check_again,
    keyed_router,
    problems,
)
from llm_server.api.routes.tasks import HeaderLines
from llm_server.api.schemas.events import EventsPage
from llm_server.api.streams import answers
from llm_server.api.streams.cursor import EVENT_STREAM, MAX_NUMBER, start, wants_stream

router = keyed_router("Tasks")
_EXAMPLE = 'id: 7\nevent: text.delta\ndata: {"number":7,"event":"text.delta","item":5,"text":"One by "}\n\n'
_READ: Responses = {
    200: {
        "description": "The events after the one that the call names: one page as JSON, or a stream if `Accept` "
        "prefers `text/event-stream`.",
        "content": {
            EVENT_STREAM: {"schema": {"type": "string", "examples": [_EXAMPLE]}},
        },
    },
    204: {
        "description": "A stream goes on after the last event of a task that has ended, so there is nothing to send."
    },
}
StartingAfter = Annotated[
    int, Query(ge=0, le=MAX_NUMBER, description="The number after which the events begin; 0 for all.", examples=[7])
]
LastEventId = Annotated[
    int,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=MAX_NUMBER,
        description="The `id` of the last event that the caller got. It replaces `starting_after`; a browser's "
        "EventSource sends it when it connects again.",
        examples=[7],
    ),
]
Wait = Annotated[
    int,
    Query(
        ge=0,
        le=answers.MAX_WAIT_S,
        description="As JSON, how many seconds the response may be held until there is an event. A stream ignores it.",
        examples=[20],
    ),
]
Accept = Annotated[
    HeaderLines,
    Header(alias="Accept", include_in_schema=False),  # OpenAPI says it by the media types of the response
]


@router.get(
    TASK_PATH + "/events",
    summary="Read or stream the events of a task",
    response_model=EventsPage,
    responses=problems(404, 422, 503) | _READ,
)
async def read_events(
    request: Request,
    ref: Ref,
    run: Run,
    service: Service,
    starting_after: StartingAfter = 0,
    wait: Wait = 0,
    last_event_id: LastEventId = None,  # type: ignore[assignment]  # a union would name its members in faults
    accept: Accept = None,
) -> Response:
    """Tell what has happened to a task, and what happens while the caller reads.

    As a stream, the events come as they happen until the task is final. Then the event `end` follows, and the response
    ends.
    """
    after = start(starting_after, last_event_id)
    feed = run.follow(lambda number: service.events(ref, after=number), ref, after)
    if wants_stream(accept or ()):
        return await answers.stream(feed, request.scope, lasts=run.streams, check_caller=partial(check_again, request))
    return await answers.page(feed, after, wait, request.scope)
