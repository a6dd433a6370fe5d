"""The size of a body is limited before it is parsed, with or without a Content-Length.

Tested on the server's socket.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support.server_process import RunningServer, serving

CHUNK = b" " * 65_536
HEAD = b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LARGE = 200 * 1024
GOOD = b'{"prompt": "x"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("bodies") / "tasks.db") as server:
        yield server


def exchanged(server: RunningServer, *parts: bytes, hang_up: bool = False) -> bytes:
    """Send the parts one by one until the server closes; return its answer up to the end of the body."""
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=10) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while not complete(answer):
            try:
                received = connection.recv(65_536)
            except ConnectionResetError:
                break
            if not received:
                break
            answer += received
    return answer


def complete(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(found) and (not length or len(body) >= int(length[0].partition(b":")[2]))


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_chunked_body_is_cut_off_at_the_limit(server: RunningServer) -> None:
    """It has no length, so received bytes are counted. The limit: 200,000 characters of 12 bytes, 20 MB and 64 KiB."""
    answer = exchanged(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunked(CHUNK)] * 400)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].startswith("The body is too large")


def test_a_chunked_body_within_the_limit_is_accepted(server: RunningServer) -> None:
    parts = [chunked(GOOD[:7]), chunked(GOOD[7:]), b"0\r\n\r\n"]

    assert exchanged(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *parts).startswith(b"HTTP/1.1 202 ")


def test_a_length_above_the_limit_is_refused_before_the_body_is_sent(server: RunningServer) -> None:
    assert exchanged(server, HEAD + b"Content-Length: 99999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("length", [b"-1", b"many", b"1e3", b"0x10", b""])
def test_an_invalid_length_is_refused(server: RunningServer, length: bytes) -> None:
    answer = exchanged(server, HEAD + b"Content-Length: " + length + b"\r\n\r\n" + GOOD, hang_up=True)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "not_http"


def test_a_body_longer_than_its_length_is_cut(server: RunningServer) -> None:
    """The rest is not read as a second body."""
    answer = exchanged(server, HEAD + b"Content-Length: 9\r\n\r\n" + GOOD)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_body_shorter_than_its_length_creates_no_task(server: RunningServer) -> None:
    before = server.call("GET", "/metrics").json()["total_requests"]
    exchanged(server, HEAD + b"Content-Length: 500\r\n\r\n" + GOOD, hang_up=True)

    assert server.call("GET", "/metrics").json()["total_requests"] == before


def test_a_request_with_two_lengths_is_refused(server: RunningServer) -> None:
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchanged(server, HEAD + both + chunked(GOOD) + b"0\r\n\r\n", hang_up=True)

    assert answer.startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"X-Long: " + b"x" * LARGE + b"\r\n",
        HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 90) for n in range(LARGE // 100)),
        HEAD.replace(b"tasks", b"tasks?x=" + b"x" * LARGE),
        HEAD + b"X" * LARGE + b": x\r\n",
    ],
    ids=["one header", "many headers", "the query", "a header's name"],
)
def test_200_kb_of_headers_cause_no_server_error(server: RunningServer, head: bytes) -> None:
    """Too large headers are the caller's fault (RFC 6585, 5; RFC 9110, 15.5.15)."""
    length = b"Content-Length: %d\r\n\r\n" % len(GOOD)
    answer = exchanged(server, head + length + GOOD)

    assert answer[:13] in {b"HTTP/1.1 %d " % status for status in (202, 400, 413, 414, 422, 431)}, answer[:200]
    assert server.call("GET", "/health").status == 200


def test_the_server_still_works_after_these_requests(server: RunningServer) -> None:
    assert server.call("GET", "/health").status == 200
    assert "Traceback" not in server.log.read_text()
