"""A proxy between one process and the AWS emulator: it numbers the calls and injects faults."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from faults.kinds import Kind

Fate = Callable[[int, str], Kind | None]
"""Takes an operation and the number of its call, from 1; returns the fault of that call."""


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `target`. `kill` ends the calling process; a delayed call is carried out `delay_s` later."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, target: str, fate: Fate, *, kill: Callable[[], object], delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.target = urlsplit(target).netloc
        self.kill = kill
        self.delay_s = delay_s
        self.calls: Counter[str] = Counter()
        self.met: Counter[Kind] = Counter()
        self.delayed = 0
        """Calls that are not finished, perhaps of a dead process."""
        self._fate = fate
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def arrive(self, operation: str) -> Kind | None:
        with self._lock:
            self.calls[operation] += 1
            kind = self._fate(self.calls.total(), operation)
            if kind:
                self.met[kind] += 1
            self.delayed += kind is Kind.DELAYED
            return kind

    def arrived_late(self) -> None:
        with self._lock:
            self.delayed -= 1

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a killed process disconnects."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        kind = self.server.arrive(operation)
        match kind:
            case Kind.ERROR:
                return self._refuse(500, "InternalServerError")
            case Kind.THROTTLED:
                return self._refuse(400, "ThrottlingException")
            case Kind.KILLED_BEFORE:
                self.server.kill()
                return self._hang_up()
            case Kind.DELAYED:
                time.sleep(self.server.delay_s)
        status, headers, answer = self._forward(body)
        if kind is Kind.DELAYED:
            self.server.arrived_late()
        if kind is Kind.KILLED_AFTER:
            self.server.kill()
        if kind in (Kind.KILLED_AFTER, Kind.LOST):
            return self._hang_up()
        return self._reply(status, answer, headers)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            connection.request("POST", self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _refuse(self, status: int, code: str) -> None:
        body = json.dumps({"__type": f"com.amazonaws#{code}", "message": "injected"}).encode()
        self._reply(status, body, [("content-type", "application/x-amz-json-1.0")])

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
