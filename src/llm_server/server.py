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

from llm_server import __version__, wiring
from llm_server.api.app import create_app
from llm_server.engines.discovery import LOOPBACK_SERVERS
from llm_server.orchestration.errors import ConfigurationError, LLMServerError
from llm_server.orchestration.service import Service
from llm_server.settings import Settings
from llm_server.storage.sqlite import SqliteStore
from llm_server.storage.sqlite_file import OnlyProcess
from llm_server.storage.sqlite_queue import SqliteQueue
from llm_server.text_logs import TextFormatter
from llm_server.workers import Workers

GRACE_S = 10
REQUEST_GRACE_S = 3


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
        with _bound(host, port) as listener:
            only = OnlyProcess(settings.db)
            try:
                return _serve(settings, listener)
            finally:
                only.release()
    except LLMServerError as error:
        print(f"llm-server: {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings, listener: socket.socket) -> int:
    address, port = listener.getsockname()[:2]
    found = wiring.load_catalog(settings, loopback=LOOPBACK_SERVERS, own_port=port)
    store, queue = SqliteStore(settings.db, wiring.retention(settings)), SqliteQueue(settings.db, wiring.now_ms)
    store.end_leases(wiring.now_ms())
    service = wiring.service_of(settings, store=store, queue=queue, catalog=found.catalog)
    workers = Workers(service, queue, count=settings.workers, sweep_s=settings.sweep_s, new_id=wiring.new_id)
    app = create_app(service, wiring.new_id)
    config = uvicorn.Config(
        app,
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
    _greet(settings, found.why, service, "localhost" if address == "127.0.0.1" else address, port)
    server.run(sockets=[listener])
    print("Stopping: tasks in progress are given 10 s to end.", file=sys.stderr)
    left = workers.stop(GRACE_S)
    if left:
        print("Tasks still in progress go on at the next start.", file=sys.stderr, flush=True)
        os._exit(0)  # a thread waits for an engine; nothing of its task is lost
    queue.close()
    store.close()
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address.

    Raises:
        ConfigurationError: another address, or a port in use.
    """
    try:
        address = "127.0.0.1" if host == "localhost" else host
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise ConfigurationError(f"--host is {host!r}; allowed are localhost, 127.0.0.1 and ::1.") from error
    if not loopback:
        raise ConfigurationError(
            f"--host is {host!r}; the server knows no keys yet, so it binds to loopback only (127.0.0.1 or ::1)."
        )
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
    print(
        f"LLM-Server {__version__}\n"
        f"  engine    {why}\n"
        f"  database  {settings.db} ({counters.total} tasks, {counters.queued + counters.active} of them open)\n"
        f"  address   {base}  ({settings.workers} workers; API at {base}/api/v1/docs; Ctrl-C stops)\n"
        f"\nTry it:\n"
        f"  curl {base}/api/v1/tasks -H 'Content-Type: application/json' -H 'Prefer: wait=20' \\\n"
        f'       -d \'{{"prompt": "Write a haiku about queues."}}\'\n',
        flush=True,
    )


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("llm_server").setLevel(level)
