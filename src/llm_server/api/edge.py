"""The outermost layer of the app: it names every response with an `X-Request-Id` and answers every error.

It also makes a HEAD request a GET request whose response has no body.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_server.api import errors
from llm_server.api.openai.mount import is_dialect
from llm_server.orchestration.domain.errors import StorageUnavailable

_log = logging.getLogger(__name__)
ANSWER_HEADERS = "llm_server.answer_headers"
"""The key, in an ASGI scope, of headers that the response gets whether the route succeeds or fails."""
REFUSAL = "llm_server.refusal"
"""The key, in an ASGI scope, of the code and the sentence of an error that the HTTP server found in the request."""
IS_HEAD = "llm_server.is_head"
"""The key, in an ASGI scope, of True if the response has no body, although the scope says GET."""

_DEFAULT_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VALID_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


def name_answer(headers: MutableHeaders, request_id: str) -> None:
    """Set the headers that every response has; keep cache and security headers that a route has set itself."""
    _name(headers.raw, request_id)


def _name(headers: list[tuple[bytes, bytes]], request_id: str) -> None:
    """Do what `name_answer` does to headers as ASGI has them: names in lower case."""
    given = {name for name, _ in headers}
    headers.append((b"x-request-id", request_id.encode("latin-1")))
    headers += [header for header in _DEFAULT_HEADERS if header[0] not in given]


class Edge:
    """ASGI middleware that sets the headers of every response, and answers what a call raises: 500 if unexpected.

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
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET", IS_HEAD: True}
        request_id = id_of(_request_id(scope), self._new_id)
        scope[errors.REQUEST_ID] = request_id
        scope[ANSWER_HEADERS] = {}
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _name(message["headers"], request_id)
                if scope[ANSWER_HEADERS]:
                    MutableHeaders(scope=message).update(scope[ANSWER_HEADERS])
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        app = self._app
        if REFUSAL in scope:
            app = _error(scope, *scope[REFUSAL])
        elif _CONTROL.search(scope["path"]):
            app = _error(scope, "path_not_found", errors.NO_SUCH_PATH)
        try:
            await app(scope, receive, send_named)
        except asyncio.CancelledError:  # by uvicorn, some seconds after the stop began
            if not started:
                await _error(scope, StorageUnavailable.code, errors.STOPPING)(scope, receive, send_named)
        except ClientDisconnect:
            _log.debug("the caller disconnected", extra={"request_id": request_id})
        except Exception as error:  # the caller gets a response
            scope["method"] = "HEAD" if is_head else scope["method"]
            response = None if started else _answer_to(scope, error)
            if response is None:  # the log gets the reason
                _log.exception("request failed", extra={"request_id": request_id, "path": scope["path"]})
                response = _error(scope, "internal_error", errors.INTERNAL)
            if started:
                raise
            await response(scope, receive, send_named)


def _error(scope: Scope, code: str, detail: str) -> Response:
    """Return an error in the form that its path has."""
    return in_form_of(scope["path"], errors.answer(code, detail, request_id=scope[errors.REQUEST_ID]))


def in_form_of(path: str, response: Response) -> Response:
    """Return the response to an error in the form that errors have on a path."""
    if not is_dialect(path):
        return response
    from llm_server.api.openai.errors import respelled  # most functions never need it

    return respelled(response)


def _answer_to(scope: Scope, error: Exception) -> Response | None:
    """Return the answer to what a call raised, in the form that its path has; None if only a bug can have caused it."""
    if not is_dialect(scope["path"]):
        return errors.answer_to(scope, error)
    from llm_server.api.openai.errors import answer_to

    return answer_to(scope, error)


def _request_id(scope: Scope) -> str:
    """Return the X-Request-Id that the caller sent, or ""."""
    sent: Iterator[bytes] = (value for name, value in scope["headers"] if name == b"x-request-id")
    return next(sent, b"").decode("latin-1")


def id_of(callers_id: str, new_id: Callable[[], str]) -> str:
    """Return the id of a request: the caller's `X-Request-Id` if it is valid, else a new one."""
    return callers_id if _VALID_ID.fullmatch(callers_id) else new_id()
