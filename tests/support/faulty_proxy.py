"""An HTTP proxy that loses requests and answers of OpenAI's libraries, as networks do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import urllib3

Fault = Literal["none", "lose request", "lose answer", "cut answer", "delay answer"]
FAULTS: tuple[Fault, ...] = ("none", "lose request", "lose answer", "cut answer", "delay answer")
Plan = Callable[[bytes, int], Fault]
"""Returns what happens to a POST: by its body, and the number of its repeat, 0 for the first POST."""


@contextmanager
def faulty_proxy(server: str, plan: Plan, *, delay_s: float) -> Iterator[str]:
    """Pass requests on to `server`; yield the proxy's URL. GET requests meet no fault."""
    over = threading.Event()
    pool = urllib3.PoolManager(maxsize=100)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(self._forwarded(None), cut=False)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fault = plan(body, int(self.headers["x-stainless-retry-count"]))
            self.close_connection = fault != "none"
            if fault == "lose request":
                return
            answer = self._forwarded(body)
            if fault == "delay answer":
                over.wait(delay_s)
            if fault != "lose answer":
                self._answer(answer, cut=fault == "cut answer")

        def _forwarded(self, body: bytes | None) -> urllib3.BaseHTTPResponse:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            url = server + self.path
            return pool.request(self.command, url, body=body, headers=headers, retries=False, timeout=120)

        def _answer(self, answer: urllib3.BaseHTTPResponse, *, cut: bool) -> None:
            try:
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data[: len(answer.data) // 2] if cut else answer.data)
            except OSError:  # the client waits no more
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        over.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
