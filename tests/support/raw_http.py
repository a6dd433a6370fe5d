"""Send bytes to a server, and read its responses as bytes."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from support import asgi
from support.server_process import RunningServer

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /api/v1/health HTTP/1.1\r\n" + HOST + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A response, with header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error, whose members are checked."""
        problem: dict[str, Any] = json.loads(self.body)
        asgi.check_problem(problem, self.status, self.headers)
        code: str = problem["code"]
        return code


def connected(server: RunningServer) -> socket.socket:
    """Open a connection to a server."""
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10)


def sent(server: RunningServer, *parts: bytes, within_s: float = 10.0) -> list[Reply]:
    """Send the parts on a new connection; return all responses until the server closes it."""
    with connected(server) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # the server may refuse before all is sent
            for part in parts:
                connection.sendall(part)
        return replies(received(connection, within_s))


def received(connection: socket.socket, within_s: float = 10.0) -> bytes:
    """Return what is received until the server closes the connection. Raises TimeoutError if it does not."""
    connection.settimeout(within_s)
    data = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            data += part
    return data


def replies(data: bytes) -> list[Reply]:
    """Read responses that follow each other. Only the last one may be without a length."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", len(data)))
        found.append(Reply(status=int(first.split(" ")[1]), headers=headers, body=data[:length]))
        data = data[length:]
    return found
