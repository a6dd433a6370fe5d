"""A streamed answer over HTTP: what its head and its transfer may be, and when its connection is used again."""

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llm_server.engines.connections import EnginePool
from llm_server.engines.http import Request, stream
from llm_server.engines.streams.chat import ChatStream
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, TaskCancelled
from support.certificates import a_certificate

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"
Script = Sequence[bytes | float]
"""What a server sends for one request; a number is a pause in seconds."""


def event(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: %s\n\n" % json.dumps({"choices": [choice]}).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ANSWER = event("Hello") + event(" there", "stop") + DONE


class Server:
    """Answers each request on a connection with the next of the scripts, and counts the connections."""

    def __init__(self, scripts: Sequence[Script], context: ssl.SSLContext | None) -> None:
        self.connections = 0
        self.over = threading.Event()
        self._scripts = iter(scripts)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError), plain, self._secured(plain) as client:
                self._serve(client)

    def _secured(self, plain: socket.socket) -> socket.socket:
        return plain if self._context is None else self._context.wrap_socket(plain, server_side=True)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        while client.recv(65_536):
            for part in next(self._scripts, [0.0]):
                if isinstance(part, bytes):
                    client.sendall(part)
                else:
                    self.over.wait(part)
                    if not part:
                        return


@contextmanager
def serving(*scripts: Script, tls: Path | None = None) -> Iterator[tuple[Server, Callable[..., tuple[str, list[str]]]]]:
    """Serve these scripts; yield the server, and a function that makes a call and returns its text and its pieces."""
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(a_certificate(tls))
    server = Server(scripts, context)
    pool = EnginePool(**({} if tls is None else {"ca_certs": str(tls / "cert.pem")}))
    url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.port}/"

    def ask(
        *, timeout_s: float = 5.0, idle_s: float = 5.0, cancellation: Cancellation | None = None
    ) -> tuple[str, list[str]]:
        pieces = list[str]()
        request = Request(method="POST", url=url, headers={}, body={}, timeout_s=timeout_s)
        cancellation = cancellation or Cancellation()
        call = EngineCall(system="", messages=user("Hi."), max_output_tokens=9, cancellation=cancellation)
        answer = stream(pool, request, call, pieces.append, ChatStream(), idle_s=idle_s)
        return answer["choices"][0]["message"]["content"], pieces

    try:
        yield server, ask
    finally:
        pool.clear()
        server.close()


@pytest.mark.parametrize(
    "script",
    [
        [CHUNKED + chunk(ANSWER) + LAST_CHUNK],
        [CHUNKED, 0.05, chunk(ANSWER) + LAST_CHUNK],
        [CHUNKED + chunk(ANSWER)[:70], 0.05, chunk(ANSWER)[70:], 0.05, LAST_CHUNK],
        [HEAD + b"content-length: %d\r\n\r\n" % len(ANSWER), 0.05, ANSWER],
        [HEAD + b"content-encoding: identity\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER],
    ],
    ids=["one packet", "head first", "cut", "length", "identity"],
)
def test_the_connection_of_a_whole_answer_is_used_again(script: Script) -> None:
    with serving(script, script, script) as (server, ask):
        for _ in range(3):
            assert ask() == ("Hello there", ["Hello", " there"])

        assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [
        [HEAD + b"\r\n" + ANSWER, 0.0],
        [HEAD + b"\r\n", 0.05, ANSWER, 0.0],
        [HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n", 0.05, chunk(ANSWER) + LAST_CHUNK, 0.0],
        [CHUNKED + chunk(ANSWER) + LAST_CHUNK + b"HTTP/1.1 400 Never asked\r\n\r\n"],
        [CHUNKED + chunk(ANSWER), 0.05, chunk(b": more\n\n"), 0.05, chunk(b": more\n\n")],
    ],
    ids=["until close", "head first", "closed", "surplus", "more"],
)
def test_any_other_connection_is_closed_after_the_answer(script: Script) -> None:
    with serving(script, script) as (server, ask):
        for _ in range(2):
            assert ask()[0] == "Hello there"

        assert server.connections == 2


def test_an_answer_is_not_held_up_by_a_connection_without_an_end() -> None:
    with serving([CHUNKED, 0.05, chunk(ANSWER), 5.0]) as (_, ask):
        started_s = time.monotonic()

        assert ask()[0] == "Hello there"
        assert time.monotonic() - started_s < 1.5


def test_an_answer_without_a_length_that_breaks_off_is_none() -> None:
    with serving([HEAD + b"\r\n" + event("Hello"), 0.05, 0.0]) as (_, ask):
        with pytest.raises(EngineUnavailable) as caught:
            ask()

        assert caught.value.may_be_billed


def test_an_empty_answer_is_none() -> None:
    with (
        serving([HEAD + b"content-length: 0\r\n\r\n"]) as (_, ask),
        pytest.raises(EngineUnavailable, match="broke off"),
    ):
        ask()


def test_an_encoding_that_was_not_asked_for_is_refused() -> None:
    packed = gzip.compress(ANSWER)
    head = HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    with serving([head + packed]) as (_, ask), pytest.raises(EngineUnavailable, match="cannot be decoded") as caught:
        ask()

    assert caught.value.kind == "garbage"
    assert caught.value.may_be_billed


def test_nothing_after_the_last_event_is_passed_on() -> None:
    with serving([CHUNKED + chunk(ANSWER + event(" again")) + LAST_CHUNK]) as (_, ask):
        assert ask() == ("Hello there", ["Hello", " there"])


def test_a_stream_over_tls_is_whole_however_its_records_are_cut(tmp_path: Path) -> None:
    """Bytes that came with the head are decrypted already, so no selector tells of them."""
    texts = [str(number) * 1_000 for number in range(10, 40)]
    body = b"".join(chunk(event(text)) for text in texts) + chunk(event("", "stop") + DONE) + LAST_CHUNK
    whole = [CHUNKED + body]
    cut: Script = [CHUNKED, 0.05, body[:20_000], 0.05, body[20_000:20_001], 0.05, body[20_001:]]
    with serving(whole, cut, whole, tls=tmp_path) as (server, ask):
        for _ in range(3):
            assert ask(timeout_s=3) == ("".join(texts), texts)

        assert server.connections == 1


def test_a_record_that_came_with_the_head_is_not_waited_for(tmp_path: Path) -> None:
    text = "x" * 12_000
    first = CHUNKED + chunk(event(text))
    assert 8_192 < len(first) < 16_384
    with serving([first, 0.6], tls=tmp_path) as (_, ask), pytest.raises(EngineUnavailable) as caught:
        ask(timeout_s=0.3)

    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens == len(text) // 4, "the text was read before the time was over"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_silent_stream_over_tls_ends_in_time(tmp_path: Path, cancelled: bool) -> None:
    cancellation = Cancellation()
    if cancelled:
        threading.Timer(0.3, cancellation.cancel).start()
    with serving([CHUNKED + chunk(event("Hello")), 3.0], tls=tmp_path) as (_, ask):
        started_s = time.monotonic()
        with pytest.raises(TaskCancelled if cancelled else EngineUnavailable):
            ask(timeout_s=30, idle_s=20 if cancelled else 0.3, cancellation=cancellation)

        assert 0.2 < time.monotonic() - started_s < 1.5
