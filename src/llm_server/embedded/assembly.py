"""Puts the embedded server's service together: on the SQLite file, with its queue in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

from msgspec import Struct

from llm_server import catalog_loading, wiring
from llm_server.engines.discovery import LOOPBACK_SERVERS
from llm_server.orchestration.domain.errors import ConfigurationError, StorageBroken, StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import LiveText
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.service import Service
from llm_server.settings import Settings
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
from llm_server.storage.sqlite.store import SqliteStore


class Embedded(Struct, frozen=True, kw_only=True):
    """The parts of the embedded server. `engines_note` says which engines answer, and why; the server prints it."""

    service: Service
    database: Database
    queue: WakeUpQueue
    engines_note: str


@contextmanager
def embedded_service(
    settings: Settings,
    *,
    own_port: int,
    on_end: Callable[[Task, str | None], None] | None = None,
    on_change: Callable[[TaskRef], None] | None = None,
    waiting: wiring.Waiting = nullcontext,
    live: LiveText | None = None,
) -> Iterator[Embedded]:
    """Build a service on the SQLite file and lock the file for this process until the end of the block.

    Tasks that an earlier process left unfinished become due at once. The search for LLM servers on this machine skips
    `own_port`. `on_end` is called on the writer's thread with each task that has become final, and its result.
    `on_change` is called so with each task whose state was saved or deleted. `live` is told of each piece of text of
    streamed tasks. `waiting()` is entered while a worker waits for an engine or for the steps of its plan.

    Raises:
        ConfigurationError: the configuration is wrong, the file cannot be used, or another server uses it.
    """
    with closing(OnlyProcess(settings.db)) as only:
        only.announce()
        loaded = catalog_loading.load_catalog(
            settings, loopback=LOOPBACK_SERVERS, own_port=own_port, may_demonstrate=True
        )
        with (
            closing(Database(settings.db)) as database,
            closing(WakeUpQueue(wiring.now_ms, database.after_commit)) as queue,
        ):
            store = SqliteStore(database, wiring.retention(settings), on_end=on_end, on_change=on_change)
            keys = SqliteKeys(database)
            _take_over(store, queue, settings)
            service = wiring.service_of(
                settings,
                store=store,
                key_store=keys,
                queue=queue,
                catalog=loaded.catalog,
                waiting=waiting,
                after_commit=database.after_commit,
                known_overview=database.known_overview,
                live=live,
            )
            yield Embedded(service=service, database=database, queue=queue, engines_note=loaded.engines_note)


def _take_over(store: SqliteStore, queue: WakeUpQueue, settings: Settings) -> None:
    """Let the tasks of an earlier process go on. Raises ConfigurationError if SQLite reports an error."""
    try:
        store.end_leases(wiring.now_ms())
        queue.refill(store.wake_ups(settings.sweep_s * 1000))
    except StorageBroken as error:
        raise ConfigurationError(error.cause) from error
    except StorageUnavailable as error:
        raise ConfigurationError(f"The server cannot start with the database {settings.db}. {error}") from error
