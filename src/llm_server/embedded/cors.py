"""Lets pages of other sites call the embedded server, as the template's CorsOrigins does on AWS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from llm_server.api import edge, errors

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
SENT_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "prefer",
    "x-api-key",
    "x-request-id",
)
"""The headers of requests that a page may set."""
EXPOSED_HEADERS = (
    "etag",
    "idempotent-replayed",
    "llm-server-demonstration",
    "location",
    "preference-applied",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "x-request-id",
)
"""The headers of responses that a page may read."""
MAX_AGE_S = 3600


class Cors(CORSMiddleware):
    """Starlette's middleware, with answers to preflight requests that are named and refused like all others."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], new_id: Callable[[], str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=SENT_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=MAX_AGE_S,
        )
        self._new_id = new_id

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser's question without a key; the browser compares what the page wants with the answer."""
        request_id = edge.id_of(request_headers.get("x-request-id", ""), self._new_id)
        allowed = super().preflight_response(request_headers)
        if self.is_allowed_origin(request_headers["origin"]):
            response = Response(status_code=204)
        else:
            response = errors.answer("origin_not_allowed", errors.OTHER_ORIGIN, request_id=request_id)
        kept = [(name, value) for name, value in allowed.headers.items() if not name.startswith("content-")]
        response.headers.update(dict(kept))
        edge.name_answer(MutableHeaders(raw=response.raw_headers), request_id)
        return response
