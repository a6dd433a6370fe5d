"""An HTTP/1.1 client that costs little CPU: keep-alive connections that each send one request after another."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. Times are those of `time.perf_counter`."""

    status: int
    body: bytes
    sent_s: float
    received_s: float

    @property
    def took_ms(self) -> float:
        return (self.received_s - self.sent_s) * 1000

    def json(self) -> Any:
        return json.loads(self.body)


def get(path: str, **headers: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()


def post(path: str, body: object, **headers: str) -> bytes:
    data = json.dumps(body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n{lines}\r\n{data}"
    ).encode()


def send(port: int, requests: Iterable[bytes], *, in_flight: int = 1) -> list[Answer]:
    """Send requests to loopback, at most `in_flight` at a time; return the answers in the order of their arrival."""
    return asyncio.run(_send(port, iter(requests), in_flight))


async def _send(port: int, requests: Iterator[bytes], in_flight: int) -> list[Answer]:
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    connections = [
        (await loop.create_connection(lambda: _Connection(requests, answers), "127.0.0.1", port))[1]
        for _ in range(in_flight)
    ]
    for connection in connections:
        connection.send_next()
    try:
        await asyncio.gather(*(connection.done for connection in connections))
    finally:
        for connection in connections:
            connection.transport.abort()
    return answers


class _Connection(asyncio.Protocol):
    """One connection. `done` gets a result when no request is left."""

    transport: asyncio.Transport

    def __init__(self, requests: Iterator[bytes], answers: list[Answer]) -> None:
        self._requests, self._answers = requests, answers
        self._buffer, self._sent_s = b"", 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent_s = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or len(body) < content_length(head):
            return
        self._answers.append(Answer(int(head[9:12]), body, self._sent_s, time.perf_counter()))
        self._buffer = b""
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


def content_length(head: bytes) -> int:
    """Return the length that a message's head announces; 0 if it announces none."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0
