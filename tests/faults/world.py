"""The world of the attack: processes start and die on one substrate, and the test moves the time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from msgspec.structs import replace

from faults.engine import HashEngine, answer_to
from faults.kinds import Killed, Kind
from faults.points import Caller
from faults.processes import PROMPT_MAX_CHARS, Process
from faults.readers import Reader, unseen
from faults.substrates import BATCH, UNSEEN, Message, Substrate, again, every_task
from llm_server import wiring
from llm_server.api.app import create_app
from llm_server.api.auth import Gate
from llm_server.api.executor import InlineExecutor
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.ports.clock import Clock as NowMs
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service
from support import asgi
from support.scripted_engine import Clock, a_catalog, an_engine

TICK_S = 20
SWEEP_EVERY_S = 60
HANG_MORE_S = 40
MAX_INSISTED = 5
MAX_STORED_S = 5.0
FUNCTION_S = 175
"""The time of a worker function for its work: the template's 180 s, less the time kept for the last writes."""


def one_engine(parallel_steps: int = 1) -> Catalog:
    """Return a catalogue with one engine; with one parallel step, calls always have the same order."""
    return a_catalog({"only": an_engine()}, parallel_steps=parallel_steps)


@dataclass(slots=True)
class World:
    """A substrate, its processes, and what the test knows about the tasks.

    `acknowledged` are the prompts of acknowledged tasks. `final` and `deleted` are tasks as they were when they were
    first final, or were deleted. `to_be_cancelled` are tasks with a call to cancel. `undone` counts claims that a
    restored table has forgotten. `noted` are the faults that were found during the run.
    """

    substrate: Substrate
    clock: Clock
    catalog: Catalog = field(default_factory=one_engine)
    engine: HashEngine = field(default_factory=HashEngine)
    others: dict[str, HashEngine] = field(default_factory=dict)
    """Engines by name; `engine` is the engine of all other names."""
    acknowledged: dict[TaskRef, str] = field(default_factory=dict)
    final: dict[TaskRef, Snapshot] = field(default_factory=dict)
    callers: list[Caller] = field(default_factory=list)
    to_be_cancelled: set[TaskRef] = field(default_factory=set)
    deleted: dict[TaskRef, Snapshot] = field(default_factory=dict)
    undone: Counter[TaskRef] = field(default_factory=Counter)
    noted: list[str] = field(default_factory=list)
    tenants: Sequence[str] = ("local",)
    new_id: Callable[[], str] = wiring.new_id
    during_hang: Callable[[], object] = lambda: None
    """Called while a call hangs."""
    late: list[TaskRef] = field(default_factory=list)
    """Tasks that were not final in time."""
    skew_s: int = 0
    """The error of a process's clock, by which a lease may seem longer."""
    hung_s: float = 0.0
    """The total time for which calls have hung so far."""
    deliveries: int = 0
    final_after_s: float = 0.0
    """The time until all tasks were final in the last `settle`, by the world's clock."""
    tick_s: int = TICK_S
    is_restored: bool = False
    """Whether the store has forgotten calls, because it was restored."""
    is_watched: bool = False
    sweeps: bool = True
    workers: bool = True
    readers: dict[TaskRef, Reader] = field(default_factory=dict)
    """The readers of the events of all tasks; see `watch`."""
    _services: dict[int, Service] = field(default_factory=dict)
    """The services of the processes, by their callers."""

    @property
    def store(self) -> Store:
        """The store as the test reads it, without faults."""
        return self.substrate.store(UNSEEN)

    @property
    def sends(self) -> int:
        """The number of messages that all processes have sent."""
        return sum(point.name in ("queue.send", "sqs.send_message") for c in self.callers for point in c.points)

    def process(
        self, name: str, faults: Mapping[int, Kind] | None = None, *, of: str = "", clock: NowMs | None = None
    ) -> Process:
        """Start a process. `faults` meet its calls `of` a kind; `clock` is its own if it is wrong."""
        caller = Caller(name, faults, of=of, meanwhile=self.hang, stall=self.stall)
        self.callers.append(caller)
        process = Process.start(
            caller,
            self.substrate,
            self.catalog,
            self.engine,
            self.others,
            clock=clock or self.clock,
            sleep=self.clock.pass_s,
            new_id=self.new_id,
            before=self._bought,
            after_piece=self._after_piece,
        )
        self._services[id(caller)] = process.service
        return process

    def watch(self) -> None:
        """Let a reader follow the events of each task from now on: after each piece of text, and as time passes."""
        self.is_watched = True

    def read_events(self, service: Service | None = None) -> None:
        """Let each reader go on, by the service of a process, or else of a new one."""
        service = service or self.process("reader").service
        for ref in self.refs():
            self.readers.setdefault(ref, Reader(ref)).read(unseen(service, self.store))

    def _after_piece(self, caller: Caller) -> None:
        """Wait until the first piece is stored, or the worker died of it, so that calls always have the same order.

        Then read: embedded, the readers are in the process of the worker.
        """
        end_s = time.monotonic() + MAX_STORED_S
        while not caller.texts_tried and not caller.is_dead and time.monotonic() < end_s:
            time.sleep(0.0005)
        if self.is_watched and not caller.is_dead:
            self.read_events(self._services[id(caller)] if self.substrate.shows_unstored else None)

    def call(
        self, method: str, path: str, by: Process, headers: Mapping[str, str] | None = None, body: object = None
    ) -> asgi.Answer | None:
        """Make an HTTP call below /api/v1; return None if the process died of it."""
        parts = [] if body is None else [json.dumps(body).encode()]
        sent = {**asgi.JSON, **(headers or {})}

        def serve() -> asgi.Answer:
            _SERVING.set(by)
            return asgi.call(_app(), method, f"/api/v1{path}", headers=sent, parts=parts)

        with (
            ThreadPoolExecutor(1) as thread,
            suppress(Killed),
        ):  # a thread of its own, because the call may come while another one hangs
            return thread.submit(copy_context().run, serve).result()
        return None

    def post(
        self,
        prompt: str,
        by: Process | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        tenant: str = "local",
        **fields: object,
    ) -> int:
        """POST a task over HTTP; return the status of the answer, 0 if the process died of it."""
        answer = self.call("POST", "/tasks", by or self.process("post"), headers, {"prompt": prompt, **fields})
        if answer is not None and answer.status in (200, 202):
            self.acknowledged[TaskRef(tenant, answer.json["task_id"])] = prompt
        return answer.status if answer else 0

    def insist(self, method: str, path: str, first: Process, headers: Mapping[str, str] | None = None) -> int:
        """Make a call as a client does, again with another process until the answer is not a 5xx."""
        answer = self.call(method, path, first, headers)
        for _ in range(MAX_INSISTED):
            if answer is not None and answer.status < 500:
                return answer.status
            answer = self.call(method, path, self.process("again"), headers)
        raise AssertionError(f"{method} {path} was never answered")

    def deliver(self, by: Process | None = None, most: int = BATCH) -> int:
        """Let a worker receive one batch; return the number of its messages."""
        by = by or self.process("worker")
        try:
            messages = self.substrate.receive(by.caller, most)
            self.work(messages, by)
        except Killed:
            return 1
        except StorageUnavailable:
            return 0
        return len(messages)

    def work(self, messages: Sequence[Message], by: Process) -> None:
        """Let a worker process messages from any source. Raises Killed if it dies of them."""
        self.deliveries += len(messages)
        if messages:
            self.substrate.work(by.service, messages, until_ms=by.clock() + FUNCTION_S * 1000)

    def deliver_all(self) -> None:
        while self.deliver():
            pass

    def sweep(self, by: Process | None = None) -> None:
        with suppress(Killed, StorageUnavailable):  # the next minute brings the next sweep
            (by or self.process("sweep")).service.sweep()

    def pass_s(self, seconds: float) -> None:
        """Let time pass, in which workers and the sweep run."""
        end_ms = self.clock() + round(seconds * 1000)
        while self.clock() < end_ms:
            minute = self.clock() // (SWEEP_EVERY_S * 1000)
            self.clock.pass_s(min(self.tick_s, (end_ms - self.clock()) / 1000))
            if self.sweeps and self.clock() // (SWEEP_EVERY_S * 1000) > minute:
                self.sweep()
            if self.workers:
                self.deliver_all()
            if self.is_watched:
                self.read_events()

    def hang(self) -> None:
        """Let time pass while a call of one process hangs for longer than its lease.

        The existing tasks must not wait for that call: they are final as early as those of a killed process.
        """
        start_ms, in_time_s = self.clock(), self.substrate.lease_s + SWEEP_EVERY_S + TICK_S + self.skew_s
        self.during_hang()
        refs = self.refs()
        self.pass_s(in_time_s)
        self.note_final(refs)
        self.late += [ref for ref in self.refs() if ref in refs and ref not in self.final]
        self.pass_s(HANG_MORE_S)
        self.note_final(self.refs())
        self.hung_s += (self.clock() - start_ms) / 1000

    def stall(self) -> None:
        """Let time pass in which no process can continue."""
        self.clock.pass_s(self.substrate.lease_s + SWEEP_EVERY_S + TICK_S + HANG_MORE_S)

    def settle(self, within_s: float) -> None:
        """Let time pass until every task is final, at most `within_s`; then until every message was delivered again.

        The time for which calls hung is subtracted from `within_s`.
        """
        start_ms, refs = self.clock(), self.refs()
        self.deliver_all()
        while not self.note_final(refs) and self.clock() < start_ms + (within_s - self.hung_s) * 1000:
            self.pass_s(self.tick_s)
        self.final_after_s = (self.clock() - start_ms) / 1000
        self.late += [ref for ref in refs if ref not in self.final]
        self.clock.pass_s(self.substrate.visibility_s + 1)
        self.pass_s(self.tick_s)
        for ref in [*refs, *self.deleted]:
            self.work([again(ref)], self.process("redelivery"))
        self._settle_cancelled()

    def _settle_cancelled(self) -> None:
        """Deliver the messages of cancelled tasks whose workers died once more, after their leases.

        Embedded, a new start does that. On AWS the visibility time-out is longer than the lease.
        """
        left = [ref for ref in self.refs() if self.store.peek(ref).pending]
        if left:
            self.clock.pass_s(self.substrate.lease_s + self.skew_s + 1)
        for ref in left:
            self.work([again(ref)], self.process("restart"))

    def refs(self) -> list[TaskRef]:
        """Return every task, acknowledged or not."""
        return every_task(self.store, self.tenants)

    def delete(self, ref: TaskRef, known: Snapshot) -> None:
        """Note that a task will be deleted, and how it was counted: by its end, or as Cancelled."""
        if ref in self.final:
            known = self.final.pop(ref)
        elif not known.task.status.is_final:
            known = replace(known, task=known.task.cancelled(now_ms=self.clock()))
        self.deleted[ref] = known

    def restore(self, copy: object) -> None:
        """Restore the store from a copy; later changes are forgotten, queue and workers continue."""
        before = {ref: self.store.peek(ref).fence for ref in self.refs()}
        self.is_restored = True
        self.substrate.restore(copy)
        for ref in self.refs():
            self.undone[ref] += max(0, before.get(ref, 0) - self.store.peek(ref).fence)
        known = set(self.refs())
        self.acknowledged = {ref: prompt for ref, prompt in self.acknowledged.items() if ref in known}
        self.final.clear()

    def note_final(self, refs: Sequence[TaskRef]) -> bool:
        """Record the tasks that are final now; return whether all are."""
        for ref in refs:
            if ref not in self.final and self.store.peek(ref).status.is_final:
                self.final[ref] = self.store.get(ref)
        return all(ref in self.final for ref in refs)

    def _bought(self, call: EngineCall) -> None:
        """Note a call whose answer was already paid for and stored."""
        if call not in self.engine.calls or (call.answer_schema and call.answer_schema.name == "verdict"):
            return
        text = answer_to(call.system, call.prompt)
        for ref in self.refs():
            snapshot = self.store.get(ref)
            if snapshot.request.prompt not in call.prompt:
                continue
            texts = {output.text for output in snapshot.outputs.values()}
            if PLAN in snapshot.outputs if call.answer_schema else text in texts:
                self.noted.append(f"{ref} is asked again for what is stored: {call.prompt[:60]!r}")


_SERVING: ContextVar[Process] = ContextVar("serving")


class _OfProcess:
    """A part of the process that serves the call; many processes may serve at the same time."""

    def __init__(self, part: Callable[[Process], Any]) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part(_SERVING.get()), name)


def _gate(process: Process) -> Gate:
    return Gate(process.service.keys, InlineExecutor(process.service), open_without_keys=True)


@cache  # making the app takes longer than most runs
def _app() -> FastAPI:
    service: Any = SimpleNamespace(prompt_max_chars=PROMPT_MAX_CHARS, keys=None)
    app = create_app(service, wiring.new_id, executor=InlineExecutor(service), open_without_keys=True)
    app.state.service = _OfProcess(lambda process: process.service)
    app.state.executor = _OfProcess(lambda process: InlineExecutor(process.service))
    app.state.gate = _OfProcess(_gate)
    return app
