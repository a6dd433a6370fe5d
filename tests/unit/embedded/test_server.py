"""The embedded server's socket, and requests that do not reach the app."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
import uvicorn
from uvicorn.server import ServerState

from llm_server.embedded import server
from support import asgi
from support.in_process_server import called_server

ENGINES = """
[engines.claude]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
max_concurrency = 200

[engines.local]
kind = "openai"
source = "local"
model = "m"
base_url = "http://127.0.0.1:9/v1"
"""


def test_kept_alive_connections_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only if the socket has a protocol; without it each answer takes 40 ms longer."""
    with server._bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("workers", "overlay", "said"),
    [
        (None, "", "up to 8 tasks at a time"),
        (None, ENGINES, "up to 264 tasks at a time; calls at a time: claude 200, local 64"),
        (40, ENGINES, "up to 40 tasks at a time, as LLM_SERVER_WORKERS or --workers says"),
    ],
)
def test_the_greeting_says_how_many_tasks_are_carried_out_at_a_time(
    tmp_path: Path, workers: int | None, overlay: str, said: str
) -> None:
    with called_server(tmp_path, overlay, workers=workers) as called:
        assert server._concurrency(called.settings, called.service) == said


class Connection(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\nX-Name: a\x00b\r\n\r\n",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9.9\r\n\r\n",
    ],
    ids=["NUL in a header", "negative length", "TLS", "version"],
)
def test_what_is_no_http_is_answered_like_everything_else(sent: bytes) -> None:
    """Clients parse this error like those of the app."""
    connection, loop = Connection(), asyncio.new_event_loop()
    protocol = server.Protocol(uvicorn.Config(lambda: None, log_config=None), ServerState(), {}, loop)
    protocol.connection_made(connection)
    protocol.data_received(sent)
    loop.close()

    head, _, body = connection.written.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert (status, connection.closed) == ("HTTP/1.1 400 Bad Request", True)
    problem = json.loads(body)
    asgi.check_problem(problem, 400, headers)
    assert (problem["code"], problem["detail"]) == ("not_http", "The request is not valid HTTP/1.1.")
    assert headers["content-length"] == str(len(body))
    assert (headers["connection"], headers["cache-control"]) == ("close", "no-store")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert len(headers["x-request-id"]) == 36
