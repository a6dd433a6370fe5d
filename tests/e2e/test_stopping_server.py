"""What callers get whose requests are in progress when the embedded server stops."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.struck_server import ORDERS
from support.raw_http import HOST, Reply, connected, received, replies
from support.server_process import RunningServer, serving

BODY = b'{"prompt": "x"}'
POST = (
    b"POST /api/v1/tasks HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nX-Request-Id: r-1\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server whose commits take longer than its callers wait when it stops."""
    orders = tmp_path / "orders"
    orders.write_text("", encoding="utf-8")
    with serving(tmp_path / "tasks.db", env={ORDERS: str(orders)}, program="faults.struck_server") as server:
        orders.write_text("slow 4.5", encoding="utf-8")
        yield server


@pytest.mark.parametrize("sent", [POST + BODY, POST + BODY[:-1]], ids=["slow commit", "slow upload"])
def test_a_call_that_the_stop_breaks_off_is_told_so(server: RunningServer, sent: bytes) -> None:
    """uvicorn answered 500 in text/plain after 3 s, and wrote a traceback."""
    [reply] = stopped_during(server, sent)

    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "storage_unavailable", "5")
    assert reply.headers["x-request-id"] == "r-1"
    assert "Traceback" not in server.log.read_text()


def test_a_client_that_does_not_read_does_not_hold_up_the_stop(server: RunningServer) -> None:
    bundle = b"GET /api/v1/docs/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n"
    begun = time.monotonic()
    stopped_during(server, bundle * 12)

    assert time.monotonic() - begun < 10
    assert "Traceback" not in server.log.read_text()


def stopped_during(server: RunningServer, sent: bytes) -> list[Reply]:
    """Stop the server while it has what was sent; return what it answers."""
    with connected(server) as connection:
        connection.sendall(sent)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(25)
        return replies(received(connection))
