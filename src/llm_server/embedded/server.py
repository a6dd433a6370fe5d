"""Run the embedded server: HTTP and workers in one process, with one SQLite file."""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from llm_server import __version__, substrates, wiring
from llm_server.api.app import create_app
from llm_server.api.contract import PREFIX
from llm_server.embedded.assembly import Embedded, embedded_service
from llm_server.embedded.connections import Connections, max_connections
from llm_server.embedded.cors import Cors
from llm_server.embedded.executor import OffLoopExecutor
from llm_server.embedded.http_protocol import HttpProtocol
from llm_server.embedded.logs import TextFormatter
from llm_server.embedded.one_core import keep_to_one_core
from llm_server.embedded.open_files import allow_open_files
from llm_server.embedded.passes import Passes
from llm_server.embedded.slots import Slots
from llm_server.embedded.streams.hub import Hub
from llm_server.embedded.watches import Watches
from llm_server.embedded.workers import Workers, workers_for
from llm_server.loopback import is_loopback_host
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import ConfigurationError, LLMServerError
from llm_server.orchestration.service import Service
from llm_server.settings import Settings
from llm_server.storage.sqlite.file import process_lock

GRACE_S = 10
MAX_COMPUTING = 8
"""How many workers compute at a time. More make `/metrics` wait in a burst of answers; fewer share a commit less."""
REQUEST_GRACE_S = 3
STOP_GRACE_S = 7
"""How much longer than its own grace periods a server may take to end, before another one gives up replacing it."""

EXAMPLE_PROMPT = "Give me three tips for staying healthy."
"""The prompt that the greeting suggests; the demonstration model answers it rightly."""


class HttpServer(uvicorn.Server):
    """uvicorn's server, except that callers that wait for a task or follow its events are let go when it stops.

    A signal handler must not do that: it may interrupt this thread while the thread holds a lock of theirs.
    """

    def __init__(self, config: uvicorn.Config, watches: Watches, hub: Hub) -> None:
        super().__init__(config)
        self.server_state = Connections(max_connections())
        self._watches = watches
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watches.stop()
        self._hub.stop()
        await super().shutdown(sockets)


def serve(*, host: str, port: int, db: Path | None = None, workers: int | None = None, replaces: bool = False) -> int:
    """Serve until SIGINT or SIGTERM. `db` and `workers` override the settings. Returns the exit code of the process.

    If `replaces`, another server that uses the database is stopped first.
    """
    try:
        settings = Settings.read()
        settings = replace(settings, db=db or settings.db, workers=workers or settings.workers)
        _log_to_stderr(settings.log_level)
        if settings.on_aws:
            raise ConfigurationError(
                "LLM_SERVER_TABLE is set, but only the Lambda functions use it; unset it to serve from SQLite."
            )
        address = _address(host)
        _check_reach(host, address, settings)
        if replaces:
            process_lock.stop_holder(settings.db, wait_s=GRACE_S + REQUEST_GRACE_S + STOP_GRACE_S)
        with _bound(address, port) as listener:
            own_port, watches, hub, slots = listener.getsockname()[1], Watches(), Hub(), Slots(MAX_COMPUTING)
            with embedded_service(
                settings,
                own_port=own_port,
                on_end=watches.tell_end,
                on_change=hub.changed,
                live=hub,
                waiting=slots.waiting,
            ) as embedded:
                return _serve(settings, listener, embedded, watches, hub, slots)
    except LLMServerError as error:
        print(f"llm-server: {error}", file=sys.stderr)
        return 1


def _serve(
    settings: Settings, listener: socket.socket, embedded: Embedded, watches: Watches, hub: Hub, slots: Slots
) -> int:
    address, port = listener.getsockname()[:2]
    service, stopping = embedded.service, threading.Event()
    workers = Workers(
        service,
        embedded.queue,
        limit=lambda: settings.workers or workers_for(service.engine_places()),
        sweep_s=settings.sweep_s,
        new_id=wiring.new_id,
        slots=slots,
    )
    with closing(OffLoopExecutor(embedded.database, watches, hub=hub)) as executor:
        app: ASGIApp = create_app(
            service,
            wiring.new_id,
            executor=executor,
            open_without_keys=is_loopback_host(address),
            origins=settings.cors_origins,
        )
        if settings.cors_origins:
            app = Cors(app, settings.cors_origins, wiring.new_id)
        allow_open_files()
        server = _http_server(app, watches, hub)
        _keep_imports()
        if not _needs_all_cores(service.catalog):
            keep_to_one_core(stopping)
        workers.start()
        _greet(settings, embedded.engines_note, service, "localhost" if address == "127.0.0.1" else address, port)
        server.run(sockets=[listener])
    stopping.set()
    print("Stopping: tasks in progress have 10 s to finish.", file=sys.stderr)
    busy_workers = workers.stop(GRACE_S)
    if busy_workers:
        print("Tasks that are still in progress continue at the next start.", file=sys.stderr, flush=True)
        os._exit(0)  # or threads that wait for an engine would keep the process alive; their tasks are stored
    return 0


def _http_server(app: ASGIApp, watches: Watches, hub: Hub) -> uvicorn.Server:
    """Return the HTTP server, which SIGINT and SIGTERM stop."""
    config = uvicorn.Config(
        Passes(app, first=frozenset({f"{PREFIX}/health", f"{PREFIX}/metrics"})),
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_GRACE_S,
    )
    server = HttpServer(config, watches, hub)
    for number in (signal.SIGINT, signal.SIGTERM):  # while it runs, uvicorn has handlers of its own
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    return server


def _keep_imports() -> None:
    gc.collect()
    gc.freeze()  # what the imports have made stays for ever, so later collections need not look at it


def _needs_all_cores(catalog: Catalog) -> bool:
    """Return whether an engine computes in this process; llama.cpp does it on all cores."""
    return any(spec.runs_in_process for spec in catalog.engines.values())


def _address(host: str) -> str:
    """Return the IP address to listen on. Raises ConfigurationError if `--host` is not an IP address or localhost."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError as error:
        raise ConfigurationError(f"--host is {host!r}; allowed are localhost and IP addresses.") from error


def _check_reach(host: str, address: str, settings: Settings) -> None:
    """Raise ConfigurationError if other machines can reach the address and no API key exists."""
    if is_loopback_host(address):
        return
    with substrates.keys_of(settings, make=True) as keys:
        if not keys.required():
            raise ConfigurationError(
                f"--host is {host!r}, but no API key exists, and without one the server listens on loopback only; "
                "create one first: llm-server keys create --tenant NAME --scope tasks,metrics,admin"
            )


def _bound(address: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigurationError if the address or the port cannot be used."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets made with IPPROTO_TCP; without it, answers on kept-alive connections
    # take 40 ms longer
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            advice = (
                "is LLM-Server running already? Choose another port: PORT=8001 make run, "
                "or llm-server serve --port 8001"
            )
            raise ConfigurationError(f"Port {port} is in use; {advice}.") from error
        raise ConfigurationError(f"Port {port} cannot be bound: {error}.") from error
    return listener


def _greet(settings: Settings, engines_note: str, service: Service, host: str, port: int) -> None:
    """Print the configuration and an example of a call."""
    counters = service.counters()
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    required = service.keys.required()
    keys = (
        "every call needs one"
        if required
        else "none, so only this machine can call the server (llm-server keys create makes one)"
    )
    open_tasks = counters.queued + counters.active
    header = ' -H "Authorization: Bearer $LLM_SERVER_API_KEY"' if required else ""
    print(
        f"LLM-Server {__version__}\n"
        f"  engine    {engines_note}\n"
        f"  database  {settings.db} ({counters.total} tasks, {open_tasks} of them open)\n"
        f"  API keys  {keys}\n"
        f"{_triage(service)}"
        f"  workers   {_concurrency(settings, service)}\n"
        f"  address   {base}  (API at {base}/api/v1/docs; Ctrl-C stops)\n"
        f"\nTry it:\n"
        f"  curl {base}/api/v1/tasks{header} -H 'Content-Type: application/json' -H 'Prefer: wait=20' \\\n"
        f'       -d \'{{"prompt": "{EXAMPLE_PROMPT}"}}\'\n',
        flush=True,
    )


def _triage(service: Service) -> str:
    """Return the line that says which prompts an engine is asked about, and what that costs; "" if about none."""
    typical, share = service.typical_triage()
    if typical is None:
        return ""
    asked = "every prompt" if share == 1 else f"prompts that the analysis is unsure of, about {share:.0%}"
    cost = typical.expected_microusd
    price = "at an unknown price" if cost is None else f"for about USD {cost * share / 1000:.3g} per 1,000 prompts"
    return f"  triage    {typical.engine} is asked about {asked}, {price}\n"


def _concurrency(settings: Settings, service: Service) -> str:
    """Say how many tasks are carried out at a time, and which engines allow it."""
    places = service.engine_places()
    if settings.workers:
        return f"up to {settings.workers} tasks at a time, as LLM_SERVER_WORKERS or --workers says"
    calls = ", ".join(f"{name} {number}" for name, number in places.items())
    return f"up to {workers_for(places)} tasks at a time" + (f"; calls at a time: {calls}" if calls else "")


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.getLogger("llm_server").setLevel(level)
