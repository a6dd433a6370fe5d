"""Call an ASGI app as a server does, but without a socket: raw bytes in, raw bytes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from llm_server.api.error_codes import ERROR_CODES
from support import canaries

JSON = {"content-type": "application/json"}


@dataclass(slots=True, kw_only=True)
class Answer:
    """The answer, with header names in lower case. `taken` counts the parts of the body that the app read."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0

    @property
    def json(self) -> Any:
        document = json.loads(self.body)
        if self.status >= 400:
            check_problem(document, self.status, self.headers)
        else:
            assert self.headers["content-type"] == "application/json"
        return document

    @property
    def code(self) -> str:
        """The code of an error."""
        code: str = self.json["code"]
        return code

    @property
    def detail(self) -> str:
        """The `detail` of an error body."""
        detail: str = self.json["detail"]
        return detail


def check_problem(document: Any, status: int, headers: Mapping[str, str]) -> None:
    """Fail unless an error has every member (RFC 9457), and its code the status and `retryable` of the table."""
    code = ERROR_CODES[document["code"]]
    members = ["detail", "type", "title", "status", "code", "retryable", "request_id"]
    assert [*document] == members + ["errors"] * ("errors" in document)
    assert (headers["content-type"], document["type"]) == ("application/problem+json", "about:blank")
    assert (document["status"], document["retryable"]) == (status, code.retryable) == (code.status, code.retryable)
    assert document["request_id"] == headers["x-request-id"]
    assert document["title"]


def call(
    app: ASGIApp,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    parts: Iterable[bytes] = (),
    server: Mapping[str, object] | None = None,
) -> Answer:
    """Make one call with the `parts` of a body, then disconnect. `server` is added to the scope."""
    path, _, query = target.partition("?")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        **(server or {}),
    }
    answer, left = Answer(), list(parts)

    async def receive() -> Message:
        answer.taken += 1
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        answer.body += message.get("body", b"")

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    if answer.status >= 400 or path.endswith("/metrics"):
        canaries.check(answer.body.decode())
    return answer
