"""A service on the embedded store and queue with a scripted engine and a manual clock.

A pytest plugin, for the fixture at its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from llm_server import wiring
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.storage.memory_queue import WakeUpQueue
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from support.scripted_engine import Clock, ScriptedEngine, WatchedStore, a_balancer, a_catalog, an_engine

LEASE_S = 70
SWEEP_S = 120


def work_off(service: Service, queue: WakeUpQueue) -> int:
    """Process the messages in a queue one by one; return their number."""
    taken = 0
    while message := queue.receive(0):
        taken += 1
        service.process(message.ref, owner=f"w{taken}")
    return taken


class UnsteadyQueue(WakeUpQueue):
    """The embedded queue; takes no messages while it is `down`, and calls `before_send` before each message."""

    down = False
    sends = 0
    before_send: Callable[[TaskRef], object] = staticmethod(lambda ref: None)

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        self.before_send(ref)
        if self.down:
            raise StorageUnavailable("The queue does not answer; try again.")
        self.sends += 1
        super().send(ref, delay_s=delay_s, priority=priority)


class Served:
    """The service with its store, queue, engine and clock."""

    def __init__(self, folder: Path, *engines: ScriptedEngine, catalog: Catalog | None = None) -> None:
        self.path = folder / "tasks.db"
        self.clock = Clock()
        database = Database(self.path)
        self.store = WatchedStore(database)
        self.keys = SqliteKeys(database)
        self.queue = UnsteadyQueue(self.clock)
        self.engine = engines[0] if engines else ScriptedEngine()
        self.refs: list[TaskRef] = []
        self._numbers = count(1)
        self.use(catalog or a_catalog({"only": an_engine()}))

    def use(
        self,
        catalog: Catalog,
        store: Store | None = None,
        waiting: wiring.Waiting = nullcontext,
        **others: ScriptedEngine,
    ) -> Service:
        """Create the service again with another configuration or another store; `others` are engines by name.

        `self.engine` is the engine of all other names.
        """
        engines = dict.fromkeys(catalog.engines, self.engine) | others
        balancer = a_balancer(catalog, engines, self.store, self.clock, waiting=waiting, lease_s=LEASE_S)
        self.service = wiring.assemble(
            catalog=catalog,
            store=store or self.store,
            key_store=self.keys,
            queue=self.queue,
            balancer=balancer,
            max_deliveries=3,
            clock=self.clock,
            new_id=lambda: f"t{next(self._numbers)}",
            random_bytes=os.urandom,
            sweep_s=SWEEP_S,
            prompt_max_chars=1_000,
            sleep=self.clock.pass_s,
            waiting=waiting,
        )
        return self.service

    def submit(self, prompt: str = "Why is the sky blue?", **asked: Any) -> TaskRef:
        task = self.service.submit("local", NewTask(prompt=prompt, **asked))
        self.refs.append(task.ref)
        return task.ref

    def work(self) -> int:
        """Process the messages in the queue one by one; return their number."""
        return work_off(self.service, self.queue)

    def get(self, ref: TaskRef) -> Snapshot:
        return self.store.get(ref)

    def audit(self) -> None:
        """Fail unless counters, receipts and tasks agree."""
        from support.audit import audit  # not above: a plugin comes before the suites that have `audit` rewritten

        audit(self.store, self.refs)

    def close(self) -> None:
        self.queue.close()
        self.keys.close()
        self.store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.audit()
    served.close()
