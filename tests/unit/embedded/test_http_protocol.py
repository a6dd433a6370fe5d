"""What a connection does when its client is too slow, or does not read."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from llm_server.embedded import http_protocol
from llm_server.embedded.http_protocol import HttpProtocol
from support.protocol_client import POST, Client, run
from support.raw_http import HOST


@pytest.mark.parametrize(
    "sent",
    [POST, POST + b"Content-Length: 5\r\n\r\nab", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"],
    ids=["headers", "body", "chunked body"],
)
def test_a_request_that_stops_is_answered_with_408(sent: bytes) -> None:
    async def test(client: Client) -> None:
        await client.send(sent)
        client.expire()
        [reply] = await client.rest()

        assert (reply.code, reply.headers["connection"]) == ("request_timeout", "close")

    run(test)


@pytest.mark.parametrize("sent", [b"", POST + b"Content-Length: 0\r\n\r\n"], ids=["silent", "idle"])
def test_a_connection_without_a_request_is_closed_without_an_answer(sent: bytes) -> None:
    """The client would take it for the answer to its next request."""

    async def test(client: Client) -> None:
        await client.send(sent)
        client.expire()

        assert [reply.status for reply in await client.rest()] == [200] * bool(sent)

    run(test)


def test_a_body_that_never_pauses_is_refused_when_its_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte every few seconds would keep the connection open for ever."""
    monkeypatch.setattr(http_protocol, "MAX_BODY_S", 0.12)

    async def test(client: Client) -> None:
        await client.send(POST + b"Content-Length: 100\r\n\r\n")
        for _ in range(4):
            await client.send(b"x")
        [reply] = await client.rest()

        assert (reply.code, reply.headers["connection"]) == ("request_timeout", "close")

    run(test)


def test_the_time_of_a_body_begins_anew_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_BODY_S", 1.0)

    async def test(client: Client) -> None:
        for last in [b""] * 11 + [b"Connection: close\r\n"]:
            await client.send(POST + last + b"Content-Length: 2\r\n\r\na")
            await client.send(b"b")

        assert [reply.status for reply in await client.rest()] == [200] * 12

    run(test)


def test_a_body_in_parts_is_read() -> None:
    async def test(client: Client) -> None:
        await client.send(POST + b"Connection: close\r\nContent-Length: 4\r\n\r\nab")
        await client.send(b"cd")
        [reply] = await client.rest()

        assert (reply.status, reply.body) == (200, b"abcd")

    run(test)


def test_a_large_body_is_read() -> None:
    """It comes in many slices, and is not taken for headers."""

    async def test(client: Client) -> None:
        body = b"x" * 1_000_000
        await client.send(POST + b"Connection: close\r\nContent-Length: 1000000\r\n\r\n" + body)
        [reply] = await client.rest()

        assert (reply.status, reply.body) == (200, body)

    run(test)


def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order() -> None:
    """Some come while others wait to be parsed, and a part of one may come with a part of another."""

    async def test(client: Client) -> None:
        bodies = [b"%04d" % n for n in range(600)]
        last = POST + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
        sent = b"".join(POST + b"Content-Length: 4\r\n\r\n" + body for body in bodies) + last
        for begin in range(0, len(sent), 97):
            client.writer.write(sent[begin : begin + 97])
            await asyncio.sleep(0)

        assert [reply.body for reply in await client.rest()] == [*bodies, b""]

    run(test)


def test_few_requests_are_parsed_before_they_are_answered() -> None:
    """Parsed, each of them takes much more memory than its bytes."""

    async def test(client: Client) -> None:
        await client.send(b"POST /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        [protocol] = client.state.connections
        await client.send((POST + b"\r\n") * 3_000)

        assert 0 < len(cast(HttpProtocol, protocol).pipeline) < 300

    run(test)


def test_a_connection_that_waits_for_the_server_does_not_expire() -> None:
    """Reading is paused because requests wait to be parsed, so the client cannot send more of them."""

    async def test(client: Client) -> None:
        await client.send(b"POST /slow HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.send(POST + b"\r\n" + POST + b"Connection: close\r\n\r\n")
        client.expire()

        assert [reply.status for reply in await client.rest()] == [200] * 3

    run(test)


def test_a_refused_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if its client keeps its side open, and sends now and then."""
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.3)

    async def test(client: Client) -> None:
        await client.send(b"GET / HTTP/9.9\r\n" + HOST + b"\r\n")
        assert [reply.code for reply in await client.rest()] == ["http_version_unsupported"]
        await client.send(b"x" * 1_000)
        assert len(client.state.connections) == 1

        await asyncio.sleep(0.4)
        assert len(client.state.connections) == 0

    run(test)


def test_a_refused_connection_is_closed_after_8_mib() -> None:
    async def test(client: Client) -> None:
        await client.send(b"GET / HTTP/9.9\r\n" + HOST + b"\r\n")
        await client.rest()
        await client.send(b"x" * http_protocol.MAX_DISCARDED_BYTES)
        assert len(client.state.connections) == 1

        await client.send(b"x" * 1_000)
        assert len(client.state.connections) == 0

    run(test)
