"""An engine over HTTP in a process of its own. It answers Chat Completions after a fixed time, and costs little CPU."""

import asyncio
import json
import multiprocessing
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.peers import load

_NUMBER = re.compile(rb"No\. (\d+)")


@dataclass(frozen=True, slots=True)
class Engine:
    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def calls(self) -> tuple[int, int]:
        """Return how many calls the engine has had, and how many at the same time at most."""
        (answer,) = load.send(self.port, [load.get("/calls")])
        total, peak = answer.json()
        return total, peak


def prompt(number: int) -> str:
    return f"Write a haiku about queues. No. {number}"


def result(number: int) -> str:
    """Return the engine's answer to `prompt(number)`."""
    return f"Tasks wait in a line / each one is served in its turn / this is number {number}"


@contextmanager
def serving_engine(latency_s: float = 0.0) -> Iterator[Engine]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_run, args=(latency_s, theirs), daemon=True)
    process.start()
    try:
        yield Engine(ours.recv())
    finally:
        process.kill()
        process.join()


def _run(latency_s: float, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the benchmark, which ends this process
    asyncio.run(_serve(latency_s, pipe))


async def _serve(latency_s: float, pipe: Connection) -> None:
    calls = _Calls()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Exchange(latency_s, calls), "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


@dataclass(slots=True)
class _Calls:
    total: int = 0
    current: int = 0
    peak: int = 0


class _Exchange(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, latency_s: float, calls: _Calls) -> None:
        self._latency_s, self._calls, self._buffer = latency_s, calls, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or len(body) < load.content_length(head):
            return
        self._buffer = b""
        if head.startswith(b"GET"):
            self._reply([self._calls.total, self._calls.peak])
            return
        self._calls.total += 1
        self._calls.current += 1
        self._calls.peak = max(self._calls.peak, self._calls.current)
        if self._latency_s:
            asyncio.get_running_loop().call_later(self._latency_s, self._complete, body)
        else:
            self._complete(body)

    def _complete(self, body: bytes) -> None:
        self._calls.current -= 1
        found = _NUMBER.search(body)
        message = {"role": "assistant", "content": result(int(found[1])) if found else "No number was asked for."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._reply({"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})

    def _reply(self, content: object) -> None:
        data = json.dumps(content).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._transport.write(head.encode() + data)
