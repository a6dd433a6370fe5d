"""A real HTTP server on loopback that gives scripted answers and records the requests."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer, after `held_s`; a dictionary becomes JSON, bytes stay bytes, None cuts the connection.

    With `parts`, the body is a stream of these; it is cut at its end if `cuts`.
    """

    body: Mapping[str, Any] | bytes | None
    status: int = 200
    retry_after: str | None = None
    held_s: float = 0
    content_type: str | None = None
    parts: Sequence[bytes] = ()
    cuts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One recorded request."""

    line: str
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True, kw_only=True)
class Script:
    """The answers (the last one repeats) and the recorded requests."""

    url: str
    replies: Sequence[Reply] = ()
    asked: list[Asked] = field(default_factory=list)

    def next_reply(self) -> Reply:
        return self.replies[min(len(self.asked), len(self.replies)) - 1]


@contextmanager
def scripted_server() -> Iterator[Script]:
    """Serve on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(sent) if sent else None
            script.asked.append(Asked(line=f"{self.command} {self.path}", headers=dict(self.headers), body=body))
            self._send(script.next_reply())

        do_POST = do_PATCH = do_DELETE = do_GET

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.held_s)
            if reply.parts:
                self._stream(reply)
                return
            if reply.body is None:
                self.close_connection = True
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(body)))
            if reply.content_type is not None:
                self.send_header("Content-Type", reply.content_type)
            if reply.retry_after is not None:
                self.send_header("Retry-After", reply.retry_after)
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type or "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in reply.parts:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if not reply.cuts:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = reply.cuts

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Script(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def task(status: str, **fields: Any) -> dict[str, Any]:
    """Return a task document with the four fields of every answer, and more."""
    return {"task_id": "t1", "status": status, "result": None, "error": None, **fields}
