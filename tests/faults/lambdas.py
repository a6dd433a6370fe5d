"""Lambda on this machine: real processes of AWS's runtime client, killed with SIGKILL and started again."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import llm_server

POLL_S = 0.01


class RuntimeApi(ThreadingHTTPServer):
    """Serves events to a function's process: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.events: queue.Queue[tuple[bytes, int]] = queue.Queue()
        self.answers: queue.Queue[tuple[bool, Any]] = queue.Queue()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a killed process disconnects."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RuntimeApi

    def do_GET(self) -> None:
        event, deadline_ms = self.server.events.get()
        headers = {
            "Content-Type": "application/json",  # without it the runtime client crashes
            "Lambda-Runtime-Aws-Request-Id": "1",
            "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
        }
        self._reply(200, event, headers)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
        self.server.answers.put((self.path.endswith("/response"), body))
        self._reply(202, b"{}", {})

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Environment:
    """One execution environment of a function: one event at a time, in a process that may be killed."""

    def __init__(self, name: str, handler: str, variables: Mapping[str, str], *, timeout_s: int, log: Path) -> None:
        self.name = name
        self.kills = 0
        self._handler = handler
        self._variables = variables
        self._timeout_s = timeout_s
        self._log = log
        self._api: RuntimeApi | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def invoke(self, event: Any) -> Any:
        """Return the function's answer; None if its process died, ran out of time, or failed."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._api is not None
        assert self._process is not None
        deadline_ms = time.time_ns() // 1_000_000 + self._timeout_s * 1000
        self._api.events.put((json.dumps(event).encode(), deadline_ms))
        while time.time_ns() // 1_000_000 < deadline_ms:
            try:
                good, answer = self._api.answers.get(timeout=POLL_S)
            except queue.Empty:
                if self._process.poll() is not None:
                    return None
                continue
            return answer if good else None
        self._process.kill()  # as Lambda does
        return None

    def kill(self) -> None:
        """Send SIGKILL, at any moment of its work."""
        self.kills += 1
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        if self._api is not None:
            self._api.shutdown()
            self._api.server_close()

    def _start(self) -> None:
        self.close()
        self._api = RuntimeApi()
        address = f"127.0.0.1:{self._api.server_address[1]}"
        variables = {
            **self._variables,
            "AWS_LAMBDA_RUNTIME_API": address,
            "PYTHONPATH": str(Path(llm_server.__file__).parents[1]),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "awslambdaric", self._handler], env=variables, stdout=log, stderr=log
            )
