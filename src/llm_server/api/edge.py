"""The outermost layer of the app: it names every response with an `X-Request-Id` and answers every failure."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_server.api import errors

_log = logging.getLogger(__name__)
ANSWER_HEADERS = "llm_server.answer_headers"
"""The key, in an ASGI scope, of headers that the response gets whether the route succeeds or fails."""

_DEFAULT_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VALID_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


def name_answer(headers: MutableHeaders, request_id: str) -> None:
    """Set the headers that every response has; keep cache and security headers that a route has set itself."""
    headers["X-Request-Id"] = request_id
    for name, value in _DEFAULT_HEADERS.items():
        headers.setdefault(name, value)


class Edge:
    """ASGI middleware that sets the headers of every response and answers unexpected exceptions with 500.

    A path with a control character is answered with 404 here, because the framework's patterns end in `$`, which also
    matches before a trailing line feed.
    """

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of(Headers(scope=scope).get("x-request-id", ""), self._new_id)
        scope[errors.REQUEST_ID] = request_id
        scope[ANSWER_HEADERS] = {}
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                name_answer(headers, request_id)
                headers.update(scope[ANSWER_HEADERS])
            await send(message)

        app = self._app
        if _CONTROL.search(scope["path"]):
            app = errors.answer("path_not_found", errors.NO_SUCH_PATH, request_id=request_id)
        try:
            await app(scope, receive, send_named)
        except ClientDisconnect:
            _log.debug("the caller disconnected", extra={"request_id": request_id})
        except Exception:  # the caller gets a response, and the log gets the reason
            _log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            if started:
                raise
            await errors.answer("internal_error", errors.INTERNAL, request_id=request_id)(scope, receive, send_named)


def id_of(callers_id: str, new_id: Callable[[], str]) -> str:
    """Return the id of a request: the caller's `X-Request-Id` if it is valid, else a new one."""
    return callers_id if _VALID_ID.fullmatch(callers_id) else new_id()
