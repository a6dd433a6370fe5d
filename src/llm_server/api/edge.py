"""The outermost layer of the app: every answer has an id, and no failure leaves without a body."""

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
"""In an ASGI scope: what a route adds to its answer, whatever that comes to be."""

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SANE_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


def name_answer(headers: MutableHeaders, request_id: str) -> None:
    """Set the headers of every answer."""
    headers.update({"X-Request-Id": request_id, **_SECURITY_HEADERS})
    headers.setdefault("Cache-Control", "no-store")


class Edge:
    """ASGI middleware: `X-Request-Id` (the caller's where it is sane), the headers of
    every answer, and 500 for what nobody expected.

    No path holds a control character: the framework's patterns end in `$`, which a line feed may follow.
    """

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = id_of(given, self._new_id)
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
            app = errors.answer("path_not_found", errors.NOTHING_HERE, request_id=request_id)
        try:
            await app(scope, receive, send_named)
        except ClientDisconnect:
            _log.debug("the caller hung up", extra={"request_id": request_id})
        except Exception:  # the last resort: a caller must get an answer, and the log the reason
            _log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
            if started:
                raise
            await errors.answer("internal_error", errors.INTERNAL, request_id=request_id)(scope, receive, send_named)


def id_of(given: str, new_id: Callable[[], str]) -> str:
    """What a request is called: as its caller says, where that is sane."""
    return given if _SANE_ID.fullmatch(given) else new_id()
