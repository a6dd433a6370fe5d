"""How long a real connection may take to send a request, to read a response, and to do nothing."""

from __future__ import annotations

import asyncio
import socket

import pytest

from llm_server.embedded import connections
from support.protocol_client import LARGE_BYTES, POST, Client, few_bytes_at_a_time, run
from support.raw_http import HOST, replies

LARGE = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
SMALL = POST + b"Content-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HALF_OPEN_S", 0.6)
    monkeypatch.setattr(connections, "UNREAD_S", 0.6)
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", 0.8)
    monkeypatch.setattr(connections, "SWEEP_S", 0.05)


async def until_closed(connection: socket.socket) -> float:
    """Wait until the server drops a connection that reads nothing; return after how many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        if loop.time() > begun + 4:
            raise TimeoutError
        await asyncio.sleep(0.02)
        try:
            connection.send(b"\r\n")
        except BlockingIOError:
            continue
        except OSError:
            break
    return loop.time() - begun


def test_a_trickled_head_is_answered_with_408_when_its_time_ends() -> None:
    """Each byte that comes gives it no more time."""

    async def test(client: Client) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        [reply] = await client.trickle(POST + b"X: " + b"x" * 100)

        assert (reply.code, reply.headers["connection"]) == ("request_timeout", "close")
        assert 0.5 < loop.time() - begun < 2

    run(test)


def test_a_trickled_second_head_is_answered_with_408_when_its_time_ends() -> None:
    async def test(client: Client) -> None:
        await client.send(SMALL)
        first = await client.reader.readuntil(b"\r\n\r\n")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        [second] = await client.trickle(POST + b"X: " + b"x" * 100)

        assert (replies(first)[0].status, second.code) == (200, "request_timeout")
        assert 0.5 < loop.time() - begun < 2

    run(test)


def test_a_trickled_body_is_read() -> None:
    """It takes longer than a head may, but never stops for long."""

    async def test(client: Client) -> None:
        await client.send(POST + b"Connection: close\r\nContent-Length: 20\r\n\r\n")
        [reply] = await client.trickle(b"x" * 20)

        assert (reply.status, reply.body) == (200, b"x" * 20)

    run(test)


@pytest.mark.parametrize("requests", [1, 12])
def test_a_client_that_reads_nothing_is_closed(requests: int) -> None:
    """It was busy for ever, however many times it asked, and 48 such connections shut everyone out."""

    async def test(client: Client) -> None:
        with few_bytes_at_a_time(client.address) as deaf:
            deaf.send(LARGE * requests)
            await asyncio.sleep(0.3)

            assert await until_closed(deaf) < 3

    run(test)


def test_a_client_that_asks_again_but_reads_nothing_is_closed() -> None:
    async def test(client: Client) -> None:
        with few_bytes_at_a_time(client.address) as deaf:
            for _ in range(2):
                deaf.send(LARGE)
                await asyncio.sleep(0.3)

            assert await until_closed(deaf) < 3

    run(test)


@pytest.mark.parametrize("buffer_bytes", [65_536, 10_000_000])
@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_a_client_that_reads_slowly_gets_all_of_a_response(last: bytes, buffer_bytes: int) -> None:
    """It takes several times as long as a connection may be idle, or read nothing.

    The large buffer stands for the last bytes of a response, for which the server does not pause.
    """

    async def test(client: Client) -> None:
        loop, got = asyncio.get_running_loop(), 0
        with few_bytes_at_a_time(client.address) as slow:
            await asyncio.sleep(0.05)
            for each in client.state.connections:
                each.transport.set_write_buffer_limits(buffer_bytes)
            slow.send(LARGE[:-2] + last + b"\r\n")
            begun = loop.time()
            while got < LARGE_BYTES:
                part = await asyncio.wait_for(loop.sock_recv(slow, 4_000_000), 3)
                assert part, f"closed after {got} bytes and {loop.time() - begun:.1f} s"
                got += len(part)
                await asyncio.sleep(0.05 if loop.time() < begun + 3 else 0)
        assert loop.time() - begun > 3

    run(test)


def test_a_connection_is_idle_again_when_its_client_has_read_all() -> None:
    """It is closed after `KEEP_ALIVE_S`."""

    async def test(client: Client) -> None:
        loop, got = asyncio.get_running_loop(), 0
        with few_bytes_at_a_time(client.address) as slow:
            slow.send(LARGE)
            await asyncio.sleep(0.2)
            while got < LARGE_BYTES:
                got += len(await asyncio.wait_for(loop.sock_recv(slow, 4_000_000), 3))
            begun = loop.time()
            while await asyncio.wait_for(loop.sock_recv(slow, 4_000_000), 3):
                pass

            assert loop.time() - begun < 2

    run(test)


def test_a_connection_is_not_unread_any_more_once_the_transport_goes_on_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not wait for the next look, so that a request in progress is not given up for a new connection."""
    monkeypatch.setattr(connections, "SWEEP_S", 100)

    async def test(client: Client) -> None:
        loop, got = asyncio.get_running_loop(), 0
        with few_bytes_at_a_time(client.address) as slow:
            slow.send(LARGE)
            await asyncio.sleep(0.2)
            assert (len(client.state._unread), len(client.state._idle)) == (1, 0)
            while got < LARGE_BYTES:
                got += len(await asyncio.wait_for(loop.sock_recv(slow, 4_000_000), 3))

            assert (len(client.state._unread), len(client.state._idle)) == (0, 1)

    run(test)


def test_a_client_that_reads_nothing_makes_room_when_all_others_are_busy() -> None:
    async def test(client: Client) -> None:
        client.state._max_open = 2
        await client.send(b"POST /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        with few_bytes_at_a_time(client.address) as deaf:
            deaf.send(LARGE * 2)
            await asyncio.sleep(0.1)
            async with client.another() as (reader, writer):
                writer.write(SMALL)

                assert (await reader.readline()).split(b" ")[1] == b"200"

    run(test)


def test_empty_lines_keep_no_connection_open() -> None:
    """They neither begin a request nor renew the time, for their own connection or for others."""

    async def test(client: Client) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with client.another() as (other_reader, other):
            await client.send(SMALL)
            other.write(SMALL)
            reads = [asyncio.ensure_future(reader.read()) for reader in (client.reader, other_reader)]
            while not all(read.done() for read in reads) and loop.time() < begun + 4:
                client.writer.write(b"\r\n")
                await asyncio.sleep(0.05)

        assert [replies(read.result())[0].status for read in reads if read.done()] == [200, 200]
        assert loop.time() - begun < 2

    run(test)
