"""A small stand-in for API Gateway: passes HTTP requests to a handler as payload 2.0 events."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
import urllib.parse
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aws_local.invocation import Event
from llm_server.loopback import is_loopback_url

MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
MAX_ANSWER_BYTES = 6_291_556
"""Lambda's limit for a function's answer as JSON; the gateway answers 500 to a larger one."""
_TEXT = ("text/", "application/json", "application/javascript", "application/xml")

_log = logging.getLogger(__name__)


class Gateway(ThreadingHTTPServer):
    """Serves an API handler on loopback. `invoke` takes a payload 2.0 event and returns the function's answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, invoke: Callable[[Event], Any], *, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Exchange)
        self._invoke = invoke

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://localhost:{self.server_port}"

    def call(self, event: Event) -> Event:
        """Invoke the function with a new event loop, because Mangum uses the event loop of the thread."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return _checked(self._invoke(event))
        except Exception:  # as API Gateway, answer 500 to any error of the function
            _log.exception("function failed")
            return {"statusCode": 500, "body": '{"message":"Internal Server Error"}'}
        finally:
            asyncio.set_event_loop(None)
            loop.close()


class _Exchange(BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"

    def _routed(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not is_loopback_url(f"//{self.headers.get('Host', '')}"):
            self._refuse(
                403, "Forbidden"
            )  # DNS rebinding: a page of another site, which may know the key of the events
        elif "Transfer-Encoding" in self.headers or not length.isdecimal():
            self._refuse(411, "Length Required")
        elif int(length) > MAX_PAYLOAD_BYTES:
            self._refuse(413, "Request Entity Too Large")
        else:
            self._answer(self.server.call(self._event(self.rfile.read(int(length)))))

    def _not_routed(self) -> None:
        self._refuse(404, "Not Found")

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True  # the request's body was not read
        self._answer({"statusCode": status, "body": json.dumps({"message": message})})

    # The methods that template.yaml has routes for.
    do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _routed
    do_PUT = do_OPTIONS = _not_routed

    def _event(self, body: bytes) -> Event:
        path, _, query = self.path.partition("?")
        path = urllib.parse.unquote(path)
        headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        cookies = headers.pop("cookie", "")
        parameters: dict[str, list[str]] = urllib.parse.parse_qs(query, keep_blank_values=True)
        text, is_base64 = _encoded(body, headers.get("content-type", "application/json"))
        return {
            "version": "2.0",
            "routeKey": f"{self.command} /{{proxy+}}",
            "rawPath": path,
            "rawQueryString": query,
            **({"cookies": cookies.split("; ")} if cookies else {}),
            "headers": headers,
            **({"queryStringParameters": {k: ",".join(v) for k, v in parameters.items()}} if parameters else {}),
            "requestContext": self._request_context(path),
            "pathParameters": {"proxy": path.lstrip("/")},
            **({"body": text} if body else {}),
            "isBase64Encoded": is_base64,
        }

    def _request_context(self, path: str) -> Event:
        now = datetime.now(UTC)
        return {
            "accountId": "000000000000",
            "apiId": "local",
            "domainName": "localhost",
            "domainPrefix": "localhost",
            "http": {
                "method": self.command,
                "path": path,
                "protocol": self.request_version,
                "sourceIp": self.client_address[0],
                "userAgent": self.headers.get("User-Agent", ""),
            },
            "requestId": uuid.uuid4().hex[:15] + "=",
            "routeKey": f"{self.command} /{{proxy+}}",
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": time.time_ns() // 1_000_000,
        }

    def _answer(self, answer: Event) -> None:
        body = answer.get("body") or ""
        content = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
        headers = {"content-type": "application/json", **answer.get("headers", {})}
        length = headers.pop("content-length", len(content))
        self.send_response(answer["statusCode"])
        for name, value in headers.items():
            self.send_header(name, value)
        for cookie in answer.get("cookies", []):
            self.send_header("set-cookie", cookie)
        if answer["statusCode"] not in (204, 304):
            self.send_header("content-length", str(length if self.command == "HEAD" else len(content)))
        self.end_headers()
        if self.command != "HEAD" and answer["statusCode"] not in (204, 304):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        _log.info("%r", format % args)


def _checked(answer: Event) -> Event:
    """Return a function's answer; raise ValueError if its JSON is larger than Lambda allows."""
    size = len(json.dumps(answer, ensure_ascii=False).encode())
    if size > MAX_ANSWER_BYTES:
        raise ValueError(f"Response payload size ({size} bytes) exceeded maximum allowed payload size.")
    return answer


def _encoded(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return the body as API Gateway passes it on, and whether that is base64: it is for all content but text."""
    if content_type.startswith(_TEXT):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True
