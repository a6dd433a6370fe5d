"""One connection to the embedded server's HTTP protocol, on a loop of the test, with an app that echoes bodies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.types import Receive, Scope, Send

from llm_server.api.edge import Edge
from llm_server.embedded.connections import Connections
from llm_server.embedded.http_protocol import HttpProtocol
from support.raw_http import HOST, Reply, replies

POST = b"POST / HTTP/1.1\r\n" + HOST
LARGE_BYTES = 3_000_000


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body; a request for /slow takes a while, and the answer of /large has `LARGE_BYTES`."""
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/large":
        body = b"x" * LARGE_BYTES
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, slots=True)
class Client:
    """The client's side of a connection, and the server's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: Connections
    address: tuple[str, int]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.sleep(0.05)

    async def trickle(self, data: bytes) -> list[Reply]:
        """Send a byte every 50 ms until the server answers; return all responses until it closes the connection."""
        first = asyncio.ensure_future(self.reader.read(65_536))
        for n in range(len(data)):
            if not first.done():
                await self.send(data[n : n + 1])
        return replies(await asyncio.wait_for(first, 5) + await asyncio.wait_for(self.reader.read(), 5))

    @asynccontextmanager
    async def another(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open one more connection to the server."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()

    def expire(self) -> None:
        """Let the time of the connection end."""
        [protocol] = self.state.connections
        cast(HttpProtocol, protocol).expire()

    async def rest(self) -> list[Reply]:
        """Read all responses until the server closes the connection."""
        return replies(await asyncio.wait_for(self.reader.read(), 5))


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    state, loop = Connections(10), asyncio.get_running_loop()
    config = uvicorn.Config(cast(Any, Edge(echo, lambda: "r-1")), ws="none", log_config=None, lifespan="off")
    config.load()
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}, loop), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    await asyncio.sleep(0.05)
    try:
        yield Client(reader, writer, state, address)
    finally:
        writer.close()
        server.close()
        await server.wait_closed()


def few_bytes_at_a_time(address: tuple[str, int]) -> socket.socket:
    """Connect with a small receive buffer, so that most of a large response stays with the server."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect(address)
    connection.setblocking(False)
    return connection


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with connected() as client:
            await test(client)

    asyncio.run(main())
