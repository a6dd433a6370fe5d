"""How many connections the embedded server keeps, and which it closes when there are too many."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.few_files import HARD_LIMIT, MAX_CONNECTIONS
from support.raw_http import HOST, Reply, connected, received, replies, sent
from support.server_process import RunningServer, serving

BODY = b'{"prompt": "x"}'
WAITING = (
    b"POST /api/v1/tasks HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nPrefer: wait=25\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
)
SLOW = '[engines.slow]\nkind = "openai"\nsource = "local"\nmodel = "m"\nbase_url = "{url}"\n'


BUNDLE = b"GET /api/v1/docs/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with few_connections(tmp_path) as server:
        yield server


@contextmanager
def few_connections(tmp_path: Path, **variables: str) -> Iterator[RunningServer]:
    """Run a server that allows `MAX_CONNECTIONS`. Its tasks never end, because its engine does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as engine:
        config = tmp_path / "engines.toml"
        config.write_text(SLOW.format(url=f"http://127.0.0.1:{engine.getsockname()[1]}/v1"))
        env = {"LLM_SERVER_CONFIG": str(config), **variables}
        with serving(tmp_path / "tasks.db", "--workers", "1", env=env, program="support.few_files") as server:
            yield server


@pytest.mark.parametrize("begun", [b"", b"GET /api/v1/health HTTP/1.1\r\nX: ", WAITING[:-1]])
def test_half_open_connections_shut_no_caller_out(server: RunningServer, begun: bytes) -> None:
    """The oldest of them are closed first. 1,150 of them kept every caller from an answer, with 1,024 open files."""
    with ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            stack.enter_context(connected(server)).sendall(begun)

        assert server.call("GET", "/health").status == 200


def test_clients_that_read_nothing_shut_no_caller_out(server: RunningServer) -> None:
    """Each kept its connection busy for ever."""
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
            deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            deaf.sendall(BUNDLE * 12)
        time.sleep(1)

        assert [server.call("GET", "/health").status for _ in range(3)] == [200] * 3


def test_the_start_raises_the_soft_limit_of_open_files(tmp_path: Path) -> None:
    """Of a shell's usual 256 files, half may be connections: 128."""
    with few_connections(tmp_path, **{HARD_LIMIT: "1024"}) as server, ExitStack() as stack:
        first = stack.enter_context(connected(server))
        for _ in range(2 * MAX_CONNECTIONS):
            stack.enter_context(connected(server))

        assert asked(first, "/health").status == 200


def test_a_half_open_connection_is_closed_before_an_idle_one(server: RunningServer) -> None:
    with connected(server) as idle, ExitStack() as stack:
        asked(idle, "/health")
        half_open = [stack.enter_context(connected(server)) for _ in range(MAX_CONNECTIONS + 20)]

        assert received(half_open[0]) == b""
        assert asked(idle, "/health").status == 200


def test_an_idle_connection_is_closed_if_all_others_are_busy(server: RunningServer) -> None:
    with connected(server) as idle, ExitStack() as stack:
        make_busy(server, idle, stack, MAX_CONNECTIONS - 1)

        assert server.call("GET", "/health").status == 200
        assert received(idle) == b""


def test_a_caller_is_told_that_all_connections_are_busy(server: RunningServer) -> None:
    """Requests in progress are not given up for a new one."""
    with ExitStack() as stack, connected(server) as idle:
        busy = make_busy(server, idle, stack, MAX_CONNECTIONS - 1)
        idle.sendall(WAITING)
        time.sleep(0.5)
        [reply] = sent(server)
        busy[0].close()
        time.sleep(0.5)
        after = server.call("GET", "/health").status

    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "too_many_connections", "5")
    assert (reply.headers["connection"], after) == ("close", 200)


def asked(connection: socket.socket, path: str) -> Reply:
    """Send a request on an open connection; return the response."""
    connection.sendall(b"GET /api/v1%s HTTP/1.1\r\n%s\r\n" % (path.encode(), HOST))
    data = b""
    while not data.endswith(b"}"):
        data += connection.recv(65_536)
    [reply] = replies(data)
    return reply


def make_busy(server: RunningServer, idle: socket.socket, stack: ExitStack, connections: int) -> list[socket.socket]:
    """Open connections whose callers wait for a task; `idle` asks for the metrics until all tasks are stored."""
    asked(idle, "/health")
    busy = [stack.enter_context(connected(server)) for _ in range(connections)]
    for connection in busy:
        connection.sendall(WAITING)
    end = time.monotonic() + 20
    while json.loads(asked(idle, "/metrics").body)["total_requests"] < connections:
        assert time.monotonic() < end
        time.sleep(0.05)
    return busy
