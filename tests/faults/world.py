"""The world of the attack: processes come and go over one substrate, and time passes when a test says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

import asgi
from faults.engine import HashEngine, answer_to
from faults.kinds import Killed, Kind
from faults.points import Caller
from faults.processes import PROMPT_MAX_CHARS, Process
from faults.substrates import BATCH, UNSEEN, Message, Substrate, again, every_task
from llm_server import wiring
from llm_server.api.app import create_app
from llm_server.api.auth import Gate
from llm_server.orchestration.catalog import Catalog
from llm_server.orchestration.errors import StorageUnavailable
from llm_server.orchestration.ports import Clock as NowMs
from llm_server.orchestration.ports import EngineCall, Store
from llm_server.orchestration.snapshot import Snapshot
from llm_server.orchestration.task import TaskRef
from scripted import Clock, a_catalog, an_engine

TICK_S = 20
SWEEP_EVERY_S = 60
FUNCTION_S = 175
"""What a worker function has for its work: the template's 180 s without what is kept for the last writes."""


def one_engine(parallel_steps: int = 1) -> Catalog:
    """One engine, and one step at a time, so that calls come in the same order each time."""
    return a_catalog({"only": an_engine()}, parallel_steps=parallel_steps)


@dataclass(slots=True)
class World:
    """`acknowledged` tasks with their prompts; `final` ones as they were first seen to be; all processes' `callers`."""

    substrate: Substrate
    clock: Clock
    catalog: Catalog = field(default_factory=one_engine)
    engine: HashEngine = field(default_factory=HashEngine)
    acknowledged: dict[TaskRef, str] = field(default_factory=dict)
    final: dict[TaskRef, Snapshot] = field(default_factory=dict)
    callers: list[Caller] = field(default_factory=list)
    paid_twice: list[str] = field(default_factory=list)
    late: list[TaskRef] = field(default_factory=list)
    """Those that `settle` did not see final in time."""
    deliveries: int = 0
    final_after_s: float = 0.0
    """How long the last `settle` took until all was final, by the world's clock."""
    tick_s: int = TICK_S
    sweeps: bool = True
    workers: bool = True

    @property
    def store(self) -> Store:
        """The store as the test reads it: no fault is in the way."""
        return self.substrate.store(UNSEEN)

    @property
    def sends(self) -> int:
        """How many messages were sent, by whomever."""
        return sum(point.name in ("queue.send", "sqs.send_message") for c in self.callers for point in c.points)

    def process(self, name: str, faults: Mapping[int, Kind] | None = None, *, clock: NowMs | None = None) -> Process:
        """Start a process; `clock` is its own, when that one is wrong."""
        caller = Caller(name, faults, meanwhile=self.hang)
        self.callers.append(caller)
        return Process.start(
            caller, self.substrate, self.catalog, self.engine, clock=clock or self.clock, before=self._bought
        )

    def post(self, prompt: str, by: Process | None = None, **fields: object) -> int:
        """POST a task over HTTP; the status of the answer, 0 when the process died of it."""
        by = by or self.process("post")
        app = _app()
        app.state.service, app.state.gate = by.service, Gate(by.service.keys, open_without_keys=True)
        body = json.dumps({"prompt": prompt, **fields}).encode()
        try:
            answer = asgi.call(app, "POST", "/api/v1/tasks", headers=asgi.JSON, parts=[body])
        except Killed:
            return 0
        if answer.status == 202:
            self.acknowledged[TaskRef("local", answer.json["task_id"])] = prompt
        return answer.status

    def deliver(self, by: Process | None = None, most: int = BATCH) -> int:
        """Let a worker take one batch; how many messages were in it."""
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
        """Let a worker process messages, however they came. Raises Killed when it dies of them."""
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
        """Let time pass; workers and the sweep do what they do in it."""
        end_ms = self.clock() + round(seconds * 1000)
        while self.clock() < end_ms:
            minute = self.clock() // (SWEEP_EVERY_S * 1000)
            self.clock.pass_s(min(self.tick_s, (end_ms - self.clock()) / 1000))
            if self.sweeps and self.clock() // (SWEEP_EVERY_S * 1000) > minute:
                self.sweep()
            if self.workers:
                self.deliver_all()

    def hang(self) -> None:
        """What a call of one process misses that hangs until the lease is over, and two minutes more."""
        self.pass_s(self.substrate.lease_s + 120)
        self.note_final(self.refs())

    def settle(self, within_s: float) -> None:
        """Let time pass until every task is final, at most `within_s`; then until every message has come again."""
        start_ms, refs = self.clock(), self.refs()
        self.deliver_all()
        while not self.note_final(refs) and self.clock() < start_ms + within_s * 1000:
            self.pass_s(self.tick_s)
        self.final_after_s = (self.clock() - start_ms) / 1000
        self.late = [ref for ref in refs if ref not in self.final]
        self.clock.pass_s(self.substrate.visibility_s + 1)
        self.pass_s(self.tick_s)
        for ref in refs:
            self.work([again(ref)], self.process("redelivery"))

    def refs(self) -> list[TaskRef]:
        """Every task there is, acknowledged or not."""
        return every_task(self.store)

    def note_final(self, refs: Sequence[TaskRef]) -> bool:
        """Remember how the tasks look that are final now; whether all of them are."""
        for ref in refs:
            if ref not in self.final and self.store.peek(ref).status.is_final:
                self.final[ref] = self.store.get(ref)
        return all(ref in self.final for ref in refs)

    def _bought(self, call: EngineCall) -> None:
        """Take note of a call whose answer has been paid for and stored already."""
        if call not in self.engine.calls or (call.answer_schema and call.answer_schema.name == "verdict"):
            return
        text = answer_to(call.system, call.prompt)
        for ref in self.refs():
            snapshot = self.store.get(ref)
            if snapshot.request.prompt not in call.prompt:
                continue
            outputs = snapshot.outputs
            if "PLAN" in outputs if call.answer_schema else text in {output.text for output in outputs.values()}:
                self.paid_twice.append(f"{ref} is asked again for what is stored: {call.prompt[:60]!r}")


@cache  # making the app takes longer than most runs
def _app() -> FastAPI:
    nobody: Any = SimpleNamespace(prompt_max_chars=PROMPT_MAX_CHARS, keys=None)
    return create_app(nobody, wiring.new_id, open_without_keys=True)
