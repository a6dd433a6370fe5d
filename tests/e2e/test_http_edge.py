"""What a client may send to the embedded server before a request reaches the app, on real connections."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_http import HEALTH, HOST, connected, received, replies, sent
from support.server_process import RunningServer, serving

POST = b"POST /api/v1/tasks HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
BODY = b'{"prompt": "x"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CLOSE = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that has to be well after all these requests."""
    with serving(tmp_path_factory.mktemp("edge") / "tasks.db") as server:
        yield server
        assert server.call("GET", "/health").status == 200
        assert "Traceback" not in server.log.read_text()


def request(first: bytes, *headers: bytes, host: bytes = HOST) -> bytes:
    return first + b"\r\n" + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def test_50_mb_of_headers_are_refused_at_once(server: RunningServer) -> None:
    """They cost 5 s of CPU, and `/health` waited as long."""
    begun = time.monotonic()
    [reply] = sent(server, b"GET /api/v1/health HTTP/1.1\r\n" + HOST + b"X: ", *[b"x" * 1_000_000] * 50, b"\r\n\r\n")

    assert (reply.status, reply.code) == (431, "headers_too_large")
    assert time.monotonic() - begun < 2


def test_a_header_section_of_64_kb_is_accepted_and_one_byte_more_is_not(server: RunningServer) -> None:
    """The bytes of the request line and of the last line break count, too."""
    rest = 65_536 - len(CLOSE) - len(b"X: \r\n")
    fitting = CLOSE[:-2] + b"X: " + b"x" * rest + b"\r\n\r\n"

    assert len(fitting) == 65_536
    assert sent(server, fitting)[0].status == 200
    assert sent(server, fitting.replace(b"X: ", b"X: x"))[0].code == "headers_too_large"


@pytest.mark.parametrize("pieces", [1_000, 30_000])
def test_a_header_section_in_small_pieces_is_counted(server: RunningServer, pieces: int) -> None:
    size = 90_000 // pieces
    [reply] = sent(server, CLOSE[:-2] + b"X: ", *[b"x" * size] * pieces)

    assert reply.code == "headers_too_large"


@pytest.mark.parametrize(
    "endless",
    [
        b"\r\n" * 50_000,
        POST + CHUNKED + b"\r\n1\r\na\r\n0\r\n" + b"X: y\r\n" * 20_000,
        POST + CHUNKED + b"\r\n1;" + b"x" * 100_000,
        CLOSE.replace(b"Connection: close\r\n", b"") + CLOSE[:-2] + b"X: " + b"x" * 100_000,
    ],
    ids=["line breaks", "trailers", "a chunk's extension", "the second request"],
)
def test_whatever_is_not_a_body_is_bounded(server: RunningServer, endless: bytes) -> None:
    assert sent(server, endless)[-1].code == "headers_too_large"


def test_a_target_above_16_kb_is_refused(server: RunningServer) -> None:
    fitting = b"GET /api/v1/health?" + b"x" * (16_384 - len("/api/v1/health?"))

    assert sent(server, request(fitting + b" HTTP/1.1", b"Connection: close"))[0].code == "unknown_parameter"
    assert sent(server, request(fitting + b"x HTTP/1.1"))[0].code == "uri_too_long"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http_version_unsupported"),
        (request(b"GET /api/v1/health HTTP/2.0"), "http_version_unsupported"),
        (request(b"GET /api/v1/health HTTP/3.0"), "http_version_unsupported"),
        (request(b"GET /api/v1/health HTTP/1.2"), "http_version_unsupported"),
        (b"GET / HTTP/9.9.9\r\n\r\n", "http_version_unsupported"),
        (b"GET /api/v1/health\r\n\r\n", "http_version_unsupported"),
        (request(b"GET /api/v1/health RTSP/1.0"), "http_version_unsupported"),
        (request(b"GET  /api/v1/health  RTSP/1.1"), "http_version_unsupported"),
        (request(b"OPTIONS * RTSP/1.0"), "http_version_unsupported"),
        (request(b"FOO / HTTP/1.1"), "method_unknown"),
        (request(b"get / HTTP/1.1"), "method_unknown"),
        (request(b"CONNECT example.com:443 HTTP/1.1"), "method_unknown"),
        (b"\x16\x03\x01\x02\x00\x01", "not_http"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b""), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", b"Host: localhost"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.0", b"Host: localhost"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: a b\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: a/b\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: a:b\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", b"Host: localhost", b"Host: localhost"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: [::1\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: [x]\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: a@b\r\n"), "host_invalid"),
        (request(b"GET /api/v1/health HTTP/1.1", host=b"Host: a?b\r\n"), "host_invalid"),
        (request(b"GET http://u@localhost/api/v1/health HTTP/1.1"), "host_invalid"),
        (request(b"GET ftp://localhost/api/v1/health HTTP/1.1"), "not_http"),
        (POST + LENGTH + CHUNKED + b"\r\n", "not_http"),
        (POST + CHUNKED + LENGTH + b"\r\n", "not_http"),
        (POST + LENGTH * 2 + b"\r\n" + BODY, "not_http"),
        (POST + b"Content-Length: 5, 5\r\n\r\n", "not_http"),
        (POST + b"Content-Length: +5\r\n\r\n", "not_http"),
        (POST + b"Content-Length: -1\r\n\r\n", "not_http"),
        (POST + b"Transfer-Encoding : chunked\r\n\r\n", "not_http"),
        (POST + CHUNKED * 2 + b"\r\n", "not_http"),
        (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", "not_http"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer_encoding_unknown"),
        (POST + b"Transfer-Encoding: identity\r\n\r\n", "transfer_encoding_unknown"),
        (POST.replace(b"/1.1", b"/1.0") + CHUNKED + b"\r\n0\r\n\r\n", "transfer_encoding_unknown"),
        (request(b"GET /api/v1/health HTTP/1.1", b"X: a\r\n b"), "not_http"),
        (request(b"GET /api/v1/health HTTP/1.1", b" X: a", host=b""), "not_http"),
        (b"GET /api/v1/health HTTP/1.1\nHost: localhost\n\n", "not_http"),
        (request(b"GET /api/v1/health HTTP/1.1", b"X: a\nY: b"), "not_http"),
        (request(b"GET /api/v1/health HTTP/1.1", b"X: a\rY: b"), "not_http"),
        (request(b"GET /api/v1/health HTTP/1.1", b"X: a\x00b"), "not_http"),
        (POST + CHUNKED + b"\r\n1\na\n0\n\n", "not_http"),
        (POST + CHUNKED + b"\r\nxyz\r\n", "not_http"),
    ],
)
def test_what_is_refused_gets_an_answer_of_ours_and_the_connection_ends(
    server: RunningServer, data: bytes, code: str
) -> None:
    """What another program on the way could read in another way is refused (RFC 9112, 11.2)."""
    [reply] = sent(server, data)

    assert (reply.code, reply.headers["connection"], reply.headers["cache-control"]) == (code, "close", "no-store")
    assert (reply.headers["x-content-type-options"], len(reply.headers["x-request-id"])) == ("nosniff", 36)


def test_a_refused_head_request_gets_no_body(server: RunningServer) -> None:
    [reply] = sent(server, request(b"HEAD /api/v1/health HTTP/1.1", host=b""))

    assert (reply.status, reply.body) == (400, b"")


def test_a_refusal_has_the_callers_request_id(server: RunningServer) -> None:
    [reply] = sent(server, request(b"GET /api/v1/health HTTP/1.1", b"X-Request-Id: r-1", host=b""))

    assert reply.headers["x-request-id"] == "r-1"


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_another_protocol_is_refused_in_pieces_too(server: RunningServer, pieces: int) -> None:
    data = request(b"GET /api/v1/health RTSP/1.0")
    with connected(server) as connection:
        for begin in range(0, len(data), pieces):
            connection.sendall(data[begin : begin + pieces])
            time.sleep(0.002)
        [reply] = replies(received(connection))

    assert reply.code == "http_version_unsupported"


def test_another_protocol_is_refused_after_a_request(server: RunningServer) -> None:
    first, second = sent(server, HEALTH + request(b"GET /api/v1/usage RTSP/1.0"))

    assert (first.status, second.code) == (200, "http_version_unsupported")


def test_a_prompt_may_name_another_protocol(server: RunningServer) -> None:
    body = b'{"prompt": "POST /api/v1/tasks RTSP/1.0"}'
    [reply] = sent(server, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert reply.status == 202


@pytest.mark.parametrize("host", [HOST, b""])
def test_http_1_0_is_answered_with_or_without_a_host(server: RunningServer, host: bytes) -> None:
    """The connection is closed after the response."""
    [reply] = sent(server, request(b"GET /api/v1/health HTTP/1.0", host=host))

    assert (reply.status, reply.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("target", [b"https://localhost/api/v1/health", b"http://localhost:8000/api/v1/health"])
def test_a_target_may_be_a_url(server: RunningServer, target: bytes) -> None:
    assert sent(server, request(b"GET %s HTTP/1.1" % target, b"Connection: close"))[0].status == 200


def test_options_of_the_whole_server_is_answered(server: RunningServer) -> None:
    """The framework has no path `*`, so the answer is that of an unknown path (RFC 9110, 9.3.7)."""
    [reply] = sent(server, request(b"OPTIONS * HTTP/1.1", b"Connection: close"))

    assert reply.code == "path_not_found"


def test_white_space_after_a_value_is_not_a_part_of_it(server: RunningServer) -> None:
    """RFC 9112, 5.1."""
    [got] = sent(server, CLOSE.replace(b"localhost", b"localhost \t").replace(b"/health", b"/usage"))
    named = POST.replace(b"json\r\n", b"json \r\n") + b"X-Request-Id: r-1 \t\r\nConnection: close\r\n"
    [posted] = sent(server, named + LENGTH + b"\r\n" + BODY)

    assert (got.status, posted.status, posted.headers["x-request-id"]) == (200, 202, "r-1")


@pytest.mark.parametrize("host", [b"localhost", b"localhost:8000", b"127.0.0.1", b"[::1]:80", b""])
def test_valid_hosts_are_accepted(server: RunningServer, host: bytes) -> None:
    assert sent(server, CLOSE.replace(b"localhost", host))[0].status == 200


def test_the_host_of_an_absolute_url_counts(server: RunningServer) -> None:
    """RFC 9112, 3.2.2. A server without keys does not answer calls to other names."""
    [reply] = sent(server, request(b"GET http://example.com/api/v1/usage HTTP/1.1", b"Connection: close"))

    assert reply.code == "host_not_allowed"


def test_a_refusal_waits_for_the_requests_before_it(server: RunningServer) -> None:
    """Otherwise the client would take it for the answer to the first of them."""
    *before, last = sent(server, HEALTH * 3 + b"GET / HTTP/1.1\r\n\r\n")

    assert [reply.status for reply in before] == [200] * 3
    assert last.code == "host_invalid"


def test_many_requests_at_once_are_answered_one_after_the_other(server: RunningServer) -> None:
    assert [reply.status for reply in sent(server, HEALTH * 400 + CLOSE)] == [200] * 401


@pytest.mark.parametrize("wanted", [b"websocket", b"h2c"])
@pytest.mark.parametrize("framing", [LENGTH + b"\r\n" + BODY, CHUNKED + b"\r\nf\r\n" + BODY + b"\r\n0\r\n\r\n"])
def test_an_upgrade_is_ignored(server: RunningServer, wanted: bytes, framing: bytes) -> None:
    """RFC 9110, 7.8. A POST was never answered, where a WebSocket library is installed."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + wanted + b"\r\n"
    [got] = sent(server, HEALTH[:-2] + upgrade + b"\r\n")
    [posted] = sent(server, POST + upgrade + framing[:20], framing[20:])

    assert (got.status, json.loads(got.body)["status"], got.headers["connection"]) == (200, "ok", "close")
    assert (posted.status, posted.headers["connection"]) == (202, "close")


def test_trailers_are_not_taken_for_headers(server: RunningServer) -> None:
    """They come after the checks that read the headers."""
    body = b"\r\nf\r\n" + BODY + b"\r\n0\r\nPrefer: wait=20\r\n\r\n"
    [reply] = sent(server, POST + CHUNKED + b"Connection: close\r\n" + body)

    assert (reply.status, "preference-applied" in reply.headers) == (202, False)


def test_a_connection_is_kept_after_a_request(server: RunningServer) -> None:
    with connected(server) as connection:
        for _ in range(3):
            connection.sendall(HEALTH)
            time.sleep(0.05)
        connection.sendall(CLOSE)
        statuses = [reply.status for reply in replies(received(connection))]

    assert statuses == [200] * 4


def test_pages_of_named_origins_can_read_answers_and_refusals(tmp_path: Path, server: RunningServer) -> None:
    """Without the setting there are no CORS headers."""
    page = b"Origin: https://app.example"
    asked = request(
        b"OPTIONS /api/v1/tasks HTTP/1.1", page, b"Access-Control-Request-Method: POST", b"Connection: close"
    )
    refused = request(b"GET /api/v1/health HTTP/1.1", page, b"Host: localhost")
    with serving(tmp_path / "tasks.db", env={"LLM_SERVER_CORS_ORIGINS": "https://app.example"}) as open_server:
        [preflight], [refusal] = sent(open_server, asked), sent(open_server, refused)
    [without] = sent(server, asked)

    assert (preflight.status, refusal.code) == (204, "host_invalid")
    for reply in (preflight, refusal):
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert (without.status, "access-control-allow-origin" in without.headers) == (204, False)
