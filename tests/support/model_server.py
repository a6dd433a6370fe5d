"""A server of model files on loopback, with ranges, interruptions, redirects and refusals as a test scripts them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llm_server.orchestration.domain.engines.catalog import LocalModel


@dataclass(slots=True)
class Handling:
    """A request for a fault to answer; `start` is the first requested byte."""

    handler: BaseHTTPRequestHandler
    data: bytes
    start: int | None

    def head(self, status: int, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def ranged(self, most: int | None = None) -> None:
        """Answer correctly, but end after `most` bytes."""
        start, size = self.start or 0, len(self.data)
        rest = self.data[start:]
        if self.start is None:
            self.head(200, Content_Length=str(size))
        elif start >= size:
            return self.head(416, Content_Length="0", Content_Range=f"bytes */{size}")
        else:
            self.head(206, Content_Length=str(len(rest)), Content_Range=f"bytes {start}-{size - 1}/{size}")
        self.send(rest[:most])
        self.handler.close_connection = most is not None or self.handler.close_connection
        return None


Fault = Callable[[Handling], None]


@dataclass(slots=True)
class ModelServer:
    """`faults` answer first, one for each request, then `always`; `asked` are the Range headers, "" for none."""

    url: str
    data: bytes
    faults: list[Fault] = field(default_factory=list)
    always: Fault = Handling.ranged
    asked: list[str] = field(default_factory=list)

    def model(self, **changes: object) -> LocalModel:
        """Return the catalogue entry of the file."""
        fields = {
            "url": f"{self.url}/model.gguf",
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "size_bytes": len(self.data),
            "licence": "MIT",
            "context": 1024,
        }
        return LocalModel(**(fields | changes))  # type: ignore[arg-type]


def status(code: int, **headers: str) -> Fault:
    return lambda asked: asked.head(code, Content_Length="0", **headers)


def cut_after(most: int) -> Fault:
    return lambda asked: asked.ranged(most)


def without_ranges(asked: Handling, most: int | None = None) -> None:
    asked.start = None
    asked.ranged(most)


def without_length(asked: Handling) -> None:
    """Send the file without a length; the end of the connection is its end."""
    asked.head(200, Connection="close")
    asked.send(asked.data)
    asked.handler.close_connection = True


@contextmanager
def model_server(data: bytes) -> Iterator[ModelServer]:
    """Serve `data` on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            served.asked.append(asked)
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            fault = served.faults.pop(0) if served.faults else served.always
            fault(Handling(self, served.data, int(found[1]) if found else None))

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = ModelServer(url=f"http://127.0.0.1:{server.server_port}", data=data)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
