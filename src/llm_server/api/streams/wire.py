"""How events are written: as JSON documents, and as frames of an event stream (the WHATWG's server-sent events)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from llm_server.api import views
from llm_server.api.schemas.events import EventDocument
from llm_server.orchestration.events.history import Event, EventPage

RETRY = b"retry: 2000\n\n"
"""How many milliseconds a browser waits before it connects again."""
KEEP_ALIVE = b": keep-alive\n\n"
STOPPING = b": the server is stopping; connect again with Last-Event-ID\n\n"
UNANSWERED = b": the database does not answer; connect again with Last-Event-ID\n\n"

EndReason = Literal["final", "deleted", "refused"]
_encode = msgspec.json.Encoder().encode


class _Page(Struct, frozen=True, kw_only=True):
    events: list[EventDocument]
    last: int
    ended: bool


def page(events: EventPage, after: int) -> bytes:
    """Return a page as JSON. `last` is where the next page begins: the number of the last event, or `after`."""
    last = events.events[-1].number if events.events else after
    return _encode(_Page(events=[*map(views.stream_event, events.events)], last=last, ended=events.ended))


def frame(event: Event) -> bytes:
    """Return an event as a frame of a stream; `id` is its number."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.name.encode(), _encode(views.stream_event(event)))


def end(reason: EndReason) -> bytes:
    """Return the frame after which a stream is not resumed. It has no `id`, because it is not an event of the task."""
    return b"event: end\ndata: %s\n\n" % _encode({"reason": reason})
