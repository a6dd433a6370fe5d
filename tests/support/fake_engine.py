"""A fake LLM server on loopback: Chat Completions, Messages and Converse, with faults and a log of requests.

It answers with `text`, or with the result of `answer` for the body of the request. If the request has the schema of a
plan or a verdict, it answers with a valid one. Faults of `script(...)` come first, one for each request.
"""

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[["_Handler"], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One recorded request, with header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True, kw_only=True)
class FakeEngine:
    """`url` is the root, for Messages and Converse; `base_url` is for Chat Completions."""

    url: str
    text: str = "Hello from the fake engine."
    answer: Callable[[Any], str] | None = None
    models: tuple[str, ...] = ("fake-1",)
    latency_s: float = 0.0
    tokens_in: int = 11
    tokens_out: int = 7
    seen: list[Seen] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    def script(self, *faults: Fault) -> None:
        """Let the next requests meet these faults, one for each request."""
        self.faults.extend(faults)


@contextmanager
def fake_engine(**options: Any) -> Iterator[FakeEngine]:
    """Serve on a free port until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.engine = FakeEngine(url=f"http://127.0.0.1:{server.server_address[1]}", **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.engine
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def a_config(directory: Path, **engines: FakeEngine) -> dict[str, str]:
    """Write a configuration of local engines, in this order; return the environment that names the file.

    No task is triaged, so that the number of calls does not depend on how sure the analysis is of a test's prompt.
    """
    tables = ['[defaults]\ntriage = "off"\n'] + [
        f'[engines.{name}]\nkind = "openai"\nsource = "local"\nmodel = "fake-1"\nbase_url = "{engine.base_url}"\n'
        for name, engine in engines.items()
    ]
    path = directory / "engines.toml"
    path.write_text("\n".join(tables))
    return {"LLM_SERVER_CONFIG": str(path)}


def status(code: int, body: Any = None, **headers: str) -> Fault:
    """Answer with a status; `retry_after="3"` becomes the header Retry-After."""
    shown = {"error": {"type": "scripted", "message": f"scripted {code}"}} if body is None else body

    def answer(handler: "_Handler") -> None:
        handler.reply(code, shown, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def body(content: Any, content_type: str = "application/json") -> Fault:
    """Answer 200 with any body: bytes as they are, anything else as JSON."""
    return lambda handler: handler.reply(200, content, {"content-type": content_type})


def changed(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Answer as usual, but with the JSON changed in place."""

    def answer(handler: "_Handler") -> None:
        usual = handler.usual()
        change(usual)
        handler.reply(200, usual)

    return answer


def raw(data: bytes) -> Fault:
    """Send bytes that need not be HTTP, and close."""

    def answer(handler: "_Handler") -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def reset(handler: "_Handler") -> None:
    """Reset the connection before the answer starts."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def silence(handler: "_Handler") -> None:
    """Read the request and never answer."""
    handler.hold(60)
    handler.close_connection = True


def drip(part: str) -> Fault:
    """Send `headers` or a `body` without end, byte by byte, so that no time-out between bytes is reached."""

    def answer(handler: "_Handler") -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n"
        handler.wfile.write(head + (b"x-drip: " if part == "headers" else b"\r\n"))
        while handler.hold(0.01):
            try:
                handler.wfile.write(b"x")
            except OSError:
                break
        handler.close_connection = True

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    engine: FakeEngine

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; tests do that on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._take(None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._take(json.loads(data))

    def _take(self, asked: Any) -> None:
        engine = self.server.engine
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked = asked
        engine.seen.append(Seen(method=self.command, path=self.path, headers=headers, body=asked))
        if engine.latency_s:
            time.sleep(engine.latency_s)
        try:
            fault = engine.faults.popleft()
        except IndexError:
            self.reply(200, self.usual()) if self._known() else self.reply(404, {"error": {"message": "not found"}})
        else:
            fault(self)

    def hold(self, seconds: float) -> bool:
        """Wait; return False if the server is being closed."""
        return not self.server.over.wait(seconds)

    def reply(self, code: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def usual(self) -> dict[str, Any]:
        """Return the answer in the form of the API that was called."""
        engine = self.server.engine
        if self.path == "/v1/models":
            return {"object": "list", "data": [{"id": model, "object": "model"} for model in engine.models]}
        text = engine.answer(self.asked) if engine.answer else _held_to(self.asked) or engine.text
        if self.path == "/v1/messages":
            usage = {"input_tokens": engine.tokens_in, "output_tokens": engine.tokens_out}
            content = [{"type": "text", "text": text}]
            return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
        if self.path.startswith("/model/"):
            usage = {"inputTokens": engine.tokens_in, "outputTokens": engine.tokens_out, "totalTokens": 0}
            message = {"role": "assistant", "content": [{"text": text}]}
            return {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
        usage = {"prompt_tokens": engine.tokens_in, "completion_tokens": engine.tokens_out}
        message = {"role": "assistant", "content": text}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    def _known(self) -> bool:
        return self.path in ("/v1/models", "/v1/chat/completions", "/v1/messages") or self.path.startswith("/model/")

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def _held_to(asked: Any) -> str | None:
    """Return a plan of one step, or a verdict, if the request has the schema of one in its API's field, else None."""
    chat = asked.get("response_format", {}).get("json_schema", {}).get("schema")
    messages = asked.get("output_config", {}).get("format", {}).get("schema")
    converse = asked.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema", {})
    schema = chat or messages or json.loads(converse.get("schema", "null"))
    if schema is None:
        return None
    if "steps" not in schema["properties"]:
        return json.dumps({"verdict": "pass", "findings": []})
    role = schema["properties"]["steps"]["items"]["properties"]["role"]["enum"][0]
    step = {"id": "s1", "role": role, "instruction": "Do the task.", "depends_on": []}
    return json.dumps({"goal": "Do the task.", "steps": [step]})
