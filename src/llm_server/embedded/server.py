"""The embedded server: HTTP and workers in one process over one SQLite file."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm_server import __version__, wiring
from llm_server.api import edge, errors
from llm_server.api.app import create_app
from llm_server.embedded.logs import TextFormatter
from llm_server.embedded.workers import Workers
from llm_server.loopback import is_loopback_host
from llm_server.orchestration.domain.errors import ConfigurationError, LLMServerError
from llm_server.orchestration.service import Service
from llm_server.settings import Settings
from llm_server.wiring import Embedded

GRACE_S = 10
REQUEST_GRACE_S = 3


class Protocol(HttpToolsProtocol):
    """uvicorn's own; what is no HTTP never reaches the app, and is answered like what does."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's words
        request_id = wiring.new_id()
        answer = errors.answer("not_http", errors.NOT_HTTP, request_id=request_id)
        edge.name_answer(answer.headers, request_id)
        answer.headers["Connection"] = "close"
        head = [*self.server_state.default_headers, *answer.raw_headers]
        lines = b"".join(b"%s: %s\r\n" % pair for pair in head)
        self.transport.write(STATUS_LINE[400] + lines + b"\r\n" + bytes(answer.body))
        self.transport.close()


def serve(*, host: str, port: int, db: Path | None = None, workers: int | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the arguments go before the environment. Returns the exit code of the process."""
    try:
        settings = Settings.read()
        settings = replace(settings, db=db or settings.db, workers=workers or settings.workers)
        _log_to_stderr(settings.log_level)
        if settings.on_aws:
            raise ConfigurationError(
                "LLM_SERVER_TABLE is set: that is for the Lambda functions; unset it to serve from SQLite."
            )
        address = _address(host)
        _check_reach(host, address, settings)
        with _bound(address, port) as listener:
            own_port = listener.getsockname()[1]
            with wiring.embedded_service(settings, own_port=own_port) as embedded:
                return _serve(settings, listener, embedded)
    except LLMServerError as error:
        print(f"llm-server: {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings, listener: socket.socket, embedded: Embedded) -> int:
    address, port = listener.getsockname()[:2]
    service = embedded.service
    workers = Workers(service, embedded.queue, count=settings.workers, sweep_s=settings.sweep_s, new_id=wiring.new_id)
    app = create_app(service, wiring.new_id, open_without_keys=is_loopback_host(address))
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_GRACE_S,
    )
    server = uvicorn.Server(config)
    app.state.stopping = lambda: server.should_exit
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    workers.start()
    _greet(settings, embedded.why, service, "localhost" if address == "127.0.0.1" else address, port)
    server.run(sockets=[listener])
    print("Stopping: tasks in progress are given 10 s to end.", file=sys.stderr)
    left = workers.stop(GRACE_S)
    if left:
        print("Tasks still in progress go on at the next start.", file=sys.stderr, flush=True)
        os._exit(0)  # a thread waits for an engine; nothing of its task is lost
    return 0


def _address(host: str) -> str:
    """The IP address to listen on. Raises ConfigurationError when `--host` is none."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError as error:
        raise ConfigurationError(f"--host is {host!r}; allowed are localhost and IP addresses.") from error


def _check_reach(host: str, address: str, settings: Settings) -> None:
    """Without a key only this machine may reach the server. Raises ConfigurationError."""
    if is_loopback_host(address):
        return
    with wiring.keys_of(settings, make=True) as keys:
        if not keys.required():
            raise ConfigurationError(
                f"--host is {host!r}, but there is no API key, and without one the server binds to loopback only; make "
                "one first: llm-server keys create --tenant NAME --scope tasks,metrics,admin"
            )


def _bound(address: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError when the address or the port cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it a kept-alive answer takes 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            advice = (
                "is LLM-Server running already? Choose another: PORT=8001 make run, or llm-server serve --port 8001"
            )
            raise ConfigurationError(f"Port {port} is in use; {advice}.") from error
        raise ConfigurationError(f"Port {port} cannot be bound: {error}.") from error
    return listener


def _greet(settings: Settings, why: str, service: Service, host: str, port: int) -> None:
    counters = service.counters()
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    required = service.keys.required()
    keys = "every call needs one" if required else "none, so only this machine is served (llm-server keys create)"
    header = ' -H "Authorization: Bearer $LLM_SERVER_API_KEY"' if required else ""
    print(
        f"LLM-Server {__version__}\n"
        f"  engine    {why}\n"
        f"  database  {settings.db} ({counters.total} tasks, {counters.queued + counters.active} of them open)\n"
        f"  API keys  {keys}\n"
        f"  address   {base}  ({settings.workers} workers; API at {base}/api/v1/docs; Ctrl-C stops)\n"
        f"\nTry it:\n"
        f"  curl {base}/api/v1/tasks{header} -H 'Content-Type: application/json' -H 'Prefer: wait=20' \\\n"
        f'       -d \'{{"prompt": "Write a haiku about queues."}}\'\n',
        flush=True,
    )


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("llm_server").setLevel(level)
