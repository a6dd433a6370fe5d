"""The whole server in this process, called without a socket; tasks are processed only when a test asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from llm_server import catalog_loading, wiring
from llm_server.api.app import create_app
from llm_server.api.executor import InlineExecutor
from llm_server.embedded.slots import Slots
from llm_server.embedded.workers import Workers
from llm_server.orchestration.domain.api_key import SCOPES, KeyLimits
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.service import Service
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support import asgi


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledServer:
    """Calls the server; paths are below /api/v1 unless they begin with `/`."""

    app: FastAPI
    service: Service
    store: SqliteStore
    keys: SqliteKeys
    queue: WakeUpQueue
    settings: Settings
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every call."""

    def get(self, path: str, **headers: str) -> asgi.Answer:
        """Send a GET; `if_none_match="x"` becomes a header."""
        return self.call("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, body: object, path: str = "tasks", **headers: str) -> asgi.Answer:
        """Send a POST with a JSON body; bytes are sent unchanged."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", path, headers=asgi.JSON | named, parts=[data])

    def call(self, method: str, path: str, **options: Any) -> asgi.Answer:
        given = options.pop("headers", ())
        headers = [*self.headers.items(), *(given.items() if isinstance(given, Mapping) else given)]
        path = path if path.startswith("/") else f"/api/v1/{path}"
        return asgi.call(self.app, method, path, headers=headers, **options)

    def with_key(self, tenant: str = "acme", *scopes: str, **limits: Any) -> CalledServer:
        """Return the same server, called with a new API key; without named scopes, it has all of them."""
        _, token = self.service.keys.create(tenant, scopes or SCOPES, limits=KeyLimits(**limits))
        return replace(self, headers={"authorization": f"Bearer {token}"})

    def created(self, prompt: str = "Say hello.", **fields: object) -> str:
        """Create a task; return its id."""
        answer = self.post({"prompt": prompt, **fields})
        assert answer.status == 202, answer.body
        task_id: str = answer.json["task_id"]
        return task_id

    def work(self) -> None:
        """Process all queued tasks."""
        while (message := self.queue.receive(0)) is not None:
            self.service.process(message.ref, owner="w1")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let a worker thread process tasks until the block ends."""
        workers = Workers(self.service, self.queue, limit=lambda: 1, sweep_s=60, new_id=wiring.new_id, slots=Slots(8))
        workers.start()
        try:
            yield
        finally:
            assert workers.stop(10) == 0

    def on(self, store: Store | None = None, keys: KeyStore | None = None) -> CalledServer:
        """Return the same server on another store, or on another store of keys."""
        return _served(self.settings, self.store, self.keys, self.queue, store or self.store, keys or self.keys)


@contextmanager
def called_server(folder: Path, overlay: str = "", **settings: Any) -> Iterator[CalledServer]:
    """Make a server; `overlay` is the text of a configuration file."""
    config = folder / "engines.toml"
    config.write_text(overlay, encoding="utf-8")
    path = folder / "tasks.db"
    database = Database(path)
    store, keys, queue = SqliteStore(database), SqliteKeys(database), WakeUpQueue(wiring.now_ms)
    try:
        yield _served(Settings(db=path, config=config, **settings), store, keys, queue, store, keys)
    finally:
        queue.close()
        database.close()


def _served(
    settings: Settings,
    store: SqliteStore,
    keys: SqliteKeys,
    queue: WakeUpQueue,
    used_store: Store,
    used_keys: KeyStore,
) -> CalledServer:
    catalog = catalog_loading.load_catalog(settings).catalog
    service = wiring.service_of(settings, store=used_store, key_store=used_keys, queue=queue, catalog=catalog)
    app = create_app(service, wiring.new_id, executor=InlineExecutor(service), open_without_keys=True)
    return CalledServer(app=app, service=service, store=store, keys=keys, queue=queue, settings=settings)


class FailingStore:
    """A store whose methods fail, all or only the named ones; the others are those of the real store."""

    def __init__(self, inner: Store, error: Exception, *names: str) -> None:
        self._inner = inner
        self._error = error
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return self._fail if name in self._names or not self._names else getattr(self._inner, name)

    def _fail(self, *_: object, **__: object) -> None:
        raise self._error


DOWN = StorageUnavailable("The database does not answer; try again.")
