"""A fake LLM server on loopback: Chat Completions, Messages and Converse, with faults and a log of requests.

It answers with `text`, or with the result of `answer` for the body of the request. If the request has the schema of a
plan or a verdict, it answers with a valid one. Faults of `script(...)` come first, one for each request.

A request for a stream is answered with one (support/fake_streams.py): the same answer in `pieces`, with
`piece_delay_s` before each piece but the first. `broken_after(n, fault)` is a fault in the middle of a stream.
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

from support import fake_streams

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
    """`url` is the root, for Messages and Converse; `base_url` is for Chat Completions.

    `pieces` are the pieces of a streamed text; None means its words. `tool_calls` are the function calls that each
    answer asks for, as (call_id, name, arguments). With `streams` off, each answer comes whole.
    """

    url: str
    text: str = "Hello from the fake engine."
    answer: Callable[[Any], str] | None = None
    models: tuple[str, ...] = ("fake-1",)
    latency_s: float = 0.0
    tokens_in: int = 11
    tokens_out: int = 7
    streams: bool = True
    pieces: tuple[str, ...] | None = None
    piece_delay_s: float = 0.0
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    connections: int = 0
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
        handler.answer(usual)

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


def broken_after(pieces: int, fault: Fault) -> Fault:
    """Stream this many pieces of the usual answer, then let `fault` happen in the middle of the stream.

    If the answer has fewer pieces, only the last event of the stream is missing.

    `fault` is `cut`, `stall`, `dripped` or one of `fake_streams`, or any function that takes the handler.
    """

    def answer(handler: "_Handler") -> None:
        handler.stream(handler.usual(), broken=(pieces, fault))

    return answer


def cut(handler: "_Handler") -> None:
    """Close the connection in the middle of a stream."""
    handler.close_connection = True


def ended(handler: "_Handler") -> None:
    """End a stream as HTTP ends one, without the API's own end of an answer."""
    handler.chunk(b"")


def stall(handler: "_Handler") -> None:
    """Send nothing more."""
    silence(handler)


def dripped(handler: "_Handler") -> None:
    """Send signs of life without end: comments, or empty events."""
    while handler.hold(0.02):
        try:
            handler.chunk(fake_streams.sign_of_life(handler.path))
        except OSError:
            break
    handler.close_connection = True


def garbage(handler: "_Handler") -> None:
    """Send an event that is not one of the API, and end the stream."""
    handler.chunk(fake_streams.garbage(handler.path))
    handler.chunk(b"")


def error_event(handler: "_Handler") -> None:
    """Send the API's event for an error, and end the stream."""
    handler.chunk(fake_streams.error_event(handler.path))
    handler.chunk(b"")


def flood(handler: "_Handler") -> None:
    """Send more text than an answer may have."""
    for _ in range(20):
        handler.chunk(fake_streams.text_event(handler.path, "x" * 1_000_000))
    handler.chunk(b"")


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

    def setup(self) -> None:
        super().setup()
        self.server.engine.connections += 1

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
            self.answer(self.usual()) if self._known() else self.reply(404, {"error": {"message": "not found"}})
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

    def answer(self, usual: dict[str, Any]) -> None:
        """Send an answer, as a stream if the request asks for one."""
        if self.server.engine.streams and self.wants_stream:
            self.stream(usual)
        else:
            self.reply(200, usual)

    @property
    def wants_stream(self) -> bool:
        return self.path.endswith("/converse-stream") or bool((self.asked or {}).get("stream"))

    def stream(
        self, usual: dict[str, Any], *, broken: tuple[int, Fault] | None = None, first_delay_s: float = 0.0
    ) -> None:
        """Send an answer as a stream; `broken` is a fault and the number of pieces of text that come before it.

        `first_delay_s` passes before the first piece, when the head and the events before it were sent.
        """
        engine = self.server.engine
        self.send_response(200)
        self.send_header("content-type", fake_streams.content_type(self.path))
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        sent, events = 0, list(fake_streams.events(self.path, self.asked, usual, engine.pieces))
        for event in events:
            if broken and (event is events[-1] or (event.is_text and sent == broken[0])):
                break
            delay_s = engine.piece_delay_s if sent else first_delay_s
            if event.is_text and delay_s and not self.hold(delay_s):
                return
            self.chunk(event.data)
            sent += event.is_text
        if broken:
            broken[1](self)
        else:
            self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        """Send a chunk of the answer; an empty one is the last."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def usual(self) -> dict[str, Any]:
        """Return the answer in the form of the API that was called."""
        engine = self.server.engine
        if self.path == "/v1/models":
            return {"object": "list", "data": [{"id": model, "object": "model"} for model in engine.models]}
        text = engine.answer(self.asked) if engine.answer else _held_to(self.asked) or engine.text
        calls = engine.tool_calls
        if self.path == "/v1/messages":
            usage = {"input_tokens": engine.tokens_in, "output_tokens": engine.tokens_out}
            content = [
                {"type": "text", "text": text},
                *({"type": "tool_use", "id": i, "name": n, "input": json.loads(a)} for i, n, a in calls),
            ]
            reason = "tool_use" if calls else "end_turn"
            return {"type": "message", "content": content, "stop_reason": reason, "usage": usage}
        if self.path.startswith("/model/"):
            usage = {"inputTokens": engine.tokens_in, "outputTokens": engine.tokens_out, "totalTokens": 0}
            parts = [
                {"text": text},
                *({"toolUse": {"toolUseId": i, "name": n, "input": json.loads(a)}} for i, n, a in calls),
            ]
            told: dict[str, Any] = {"role": "assistant", "content": parts}
            return {
                "output": {"message": told},
                "stopReason": "tool_use" if calls else "end_turn",
                "usage": usage,
            }
        usage = {"prompt_tokens": engine.tokens_in, "completion_tokens": engine.tokens_out}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            functions = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
            message["tool_calls"] = functions
        reason = "tool_calls" if calls else "stop"
        return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}

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
