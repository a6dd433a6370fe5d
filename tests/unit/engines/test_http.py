"""An HTTP exchange: which servers it trusts, its limits, and that it leaves no connection open."""

import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NameResolutionError

from llm_server.engines.connections import EnginePool, cancellable
from llm_server.engines.failures import MAX_ANSWER_BYTES, redact
from llm_server.engines.http import exchange
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled
from support.certificates import a_certificate
from support.fake_engine import FakeEngine, body, fake_engine, reset, silence, status


@pytest.fixture
def server() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


def get(url: str, pool: EnginePool | None = None, timeout_s: float = 5.0) -> dict[str, object]:
    return exchange(pool or EnginePool(), "GET", url, headers={}, timeout_s=timeout_s)


def test_a_connection_is_used_again(server: FakeEngine) -> None:
    """A TLS handshake for every call would double the time of short calls."""
    pool = EnginePool()
    ports = {_client_port(server, pool) for _ in range(5)}

    assert len(ports) == 1


def _client_port(server: FakeEngine, pool: EnginePool) -> int:
    server.script(lambda handler: handler.reply(200, {"port": handler.client_address[1]}))
    return int(str(get(f"{server.base_url}/models", pool)["port"]))


def test_a_connection_the_server_closed_while_idle_is_replaced() -> None:
    pool = EnginePool()
    with fake_engine() as first:
        get(f"{first.base_url}/models", pool)
        port = int(first.url.rpartition(":")[2])
        first.script(close_after)
        get(f"{first.base_url}/models", pool)
        time.sleep(0.05)

        assert get(f"http://127.0.0.1:{port}/v1/models", pool)["object"] == "list"


def close_after(handler: Any) -> None:
    """Answer as if the connection stayed open, then close it."""
    handler.reply(200, {})
    handler.close_connection = True


def test_a_redirect_is_not_followed(server: FakeEngine) -> None:
    """It would send the key and the prompt to a server that is not configured."""
    with fake_engine() as elsewhere:
        server.script(status(307, {}, location=f"{elsewhere.base_url}/models"))
        with pytest.raises(EngineUnavailable, match="HTTP 307"):
            get(f"{server.base_url}/models")

        assert not elsewhere.seen


def test_proxy_variables_do_not_lead_elsewhere(server: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration alone decides where a prompt is sent."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert get(f"{server.base_url}/models")["object"] == "list"


def test_an_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    with tls_server(tmp_path) as url:
        with pytest.raises(EngineUnavailable) as caught:
            get(url)

        assert caught.value.kind == "unreachable"
        assert get(url, EnginePool(ca_certs=str(tmp_path / "cert.pem"))) == {"ok": True}


def test_the_whole_answer_has_its_time_over_tls_too(tmp_path: Path) -> None:
    with tls_server(tmp_path, drip_s=0.02) as url:
        started_s = time.monotonic()
        with pytest.raises(EngineUnavailable, match="in time"):
            get(url, EnginePool(ca_certs=str(tmp_path / "cert.pem")), timeout_s=0.3)

    assert time.monotonic() - started_s < 1.0


def test_an_answer_that_starts_late_has_no_more_time_for_its_rest(server: FakeEngine) -> None:
    """A time-out that started again with each byte would let the answer take twice as long."""

    def late_and_stuck(handler: Any) -> None:
        handler.hold(0.4)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        silence(handler)

    server.script(late_and_stuck)
    started_s = time.monotonic()
    with pytest.raises(EngineUnavailable, match="in time"):
        get(f"{server.base_url}/models", timeout_s=0.6)

    assert time.monotonic() - started_s < 0.9


def test_a_server_that_does_not_take_the_prompt_has_its_time_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/chat/completions"
        started_s = time.monotonic()
        with pytest.raises(EngineUnavailable) as caught:
            exchange(EnginePool(), "POST", url, headers={}, body={"p": "x" * 30_000_000}, timeout_s=0.3)

    assert caught.value.kind == "timeout"
    assert time.monotonic() - started_s < 2.0


def test_an_unknown_host_name_is_unreachable() -> None:
    class NoNames(EnginePool):
        def request(self, *args: Any, **options: Any) -> NoReturn:
            raise NameResolutionError("nowhere", HTTPConnection("nowhere"), socket.gaierror())

    with pytest.raises(EngineUnavailable) as caught:
        get("http://nowhere/v1", NoNames())

    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://[bad/v1", "http:///v1"])
def test_an_address_without_a_server_is_unreachable(url: str) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        get(url)

    assert caught.value.kind == "unreachable"


def test_no_time_is_not_endless_time(server: FakeEngine) -> None:
    with pytest.raises(EngineUnavailable):
        get("http://127.0.0.1:1/v1", timeout_s=-1.0)


def test_text_that_is_no_unicode_is_refused_before_it_is_sent(server: FakeEngine) -> None:
    with pytest.raises(PromptRefused, match="Unicode"):
        exchange(EnginePool(), "POST", server.url, headers={}, body={"p": "\ud800"}, timeout_s=5)

    assert not server.seen


def test_a_bomb_is_not_unpacked(server: FakeEngine) -> None:
    """Each kilobyte unpacks to a megabyte of spaces; the limit counts unpacked bytes."""
    bomb = gzip.compress(b" " * 60_000_000)
    server.script(lambda handler: handler.reply(200, bomb, {"content-encoding": "gzip"}))
    tracemalloc.start()
    with pytest.raises(EngineUnavailable, match="16 MiB"):
        get(f"{server.base_url}/models")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * MAX_ANSWER_BYTES


def test_failures_leave_no_connection_behind(server: FakeEngine) -> None:
    pool = EnginePool()
    before = threading.active_count()
    for fault in (reset, body(b"x" * 5_000_000), body(b"<html>"), status(500)) * 5:
        server.script(fault)
        with pytest.raises(EngineUnavailable):
            get(f"{server.base_url}/models", pool)

    time.sleep(0.1)
    assert threading.active_count() <= before + 2


@pytest.mark.parametrize(
    ("said", "prompt"),
    [
        ("the text `hunter` is not allowed", "my word is hunter, do not tell"),
        ("account 99887766 is blocked", "transfer from 99887766 to my wife"),
        ("user jane.doe@example.com unknown", "write to jane.doe@example.com today"),
        ("cannot parse: meet me at the usual place", "Meet  me at the\nusual PLACE at nine"),
        ("unexpected token in open sesame", "open sesame"),
    ],
)
def test_an_engines_message_that_repeats_the_prompt_is_not_shown(said: str, prompt: str) -> None:
    assert redact(said, (prompt,)) == ""


def test_an_engines_message_is_one_short_line_of_its_own_words() -> None:
    said = "request (5000 tokens) exceeds\nthe available context size\x1b[31m (4096 tokens)"

    shown = redact(said, ("Please summarise the available evidence. " * 500, ""))

    assert shown == "request (5000 tokens) exceeds the available context size [31m (4096 tokens)"
    assert len(redact("word " * 500, ("a prompt",))) == 200


def test_an_exchange_over_tls_can_be_broken_off(tmp_path: Path) -> None:
    """It ends in the middle of the answer, without a TLS shutdown that would wait for the engine."""
    cancellation = Cancellation()
    with tls_server(tmp_path, drip_s=0.05) as url:
        pool = EnginePool(ca_certs=str(tmp_path / "cert.pem"))
        threading.Timer(0.3, cancellation.cancel).start()
        started_s = time.monotonic()
        with pytest.raises(TaskCancelled):
            exchange(pool, "GET", url, headers={}, timeout_s=30, cancellation=cancellation)

    assert time.monotonic() - started_s < 1.3


def test_head_and_body_are_sent_in_one_piece() -> None:
    """Two packets would wake the engine twice for each call."""
    pieces: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(2):
                pieces.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    pool = EnginePool()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        for _ in range(2):  # over a new connection, and over a used one
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            exchange(pool, "POST", url, headers={}, body={"p": "x"}, timeout_s=5)
        thread.join()

    assert [piece.endswith(b'\r\n\r\n{"p":"x"}') for piece in pieces] == [True, True]


def test_a_connection_that_was_given_back_is_not_broken_off(server: FakeEngine) -> None:
    """Another call may be using it."""
    pool, cancellation = EnginePool(), Cancellation()
    port = _client_port(server, pool)

    with cancellable(cancellation):
        pool.request("GET", f"{server.base_url}/models", timeout=5, retries=False)
        cancellation.cancel()

    assert _client_port(server, pool) == port


@contextmanager
def tls_server(folder: Path, drip_s: float = 0.0) -> Iterator[str]:
    """Answer {"ok": true} over TLS; byte by byte if `drip_s` is set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a_certificate(folder))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve_tls, args=(listener, context, drip_s), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _serve_tls(listener: socket.socket, context: ssl.SSLContext, drip_s: float) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain:
            try:
                with context.wrap_socket(plain, server_side=True) as client:
                    client.recv(65_536)
                    answer = b'HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n{"ok": true}'
                    for piece in [answer] if not drip_s else [bytes([byte]) for byte in answer]:
                        client.sendall(piece)
                        time.sleep(drip_s)
            except OSError:
                continue
