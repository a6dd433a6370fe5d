"""The numbers of events: they grow, never change, and no event appears below one that a reader has seen."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, LLMServerError, PromptRefused, TaskLost
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event
from llm_server.orchestration.service import Service
from support.deliveries import a_plan, planning
from support.scripted_engine import Answer, ScriptedEngine, WatchedStore, a_catalog, an_engine
from support.scripted_service import LEASE_S, Served

MAY_DISAPPEAR = {
    "attempt.started",
    "step.started",
    "step.failed",
    "receipt",
    "claimed",
    "released",
    "waiting",
    "approved",
    "retried",
    "awaiting_approval",
    "failed",
    "text.delta",
}
"""A call that was announced and never made, a failed step that was done again, the receipt of a task that was retried,
the notes of a task that has more than 6, and text that a killed worker had not stored yet.
"""


class Killed(BaseException):
    """Stands for the end of a process in the middle of a call."""


class MortalStore(WatchedStore):
    """A store that a killed process can write nothing to."""

    is_killed = False

    def save(self, *states: Any, **options: Any) -> None:
        if self.is_killed:
            raise Killed
        super().save(*states, **options)

    def append(self, ref: TaskRef, group: Sequence[Delta]) -> None:
        if self.is_killed:
            raise TaskLost(ref.task_id)
        super().append(ref, group)


class Reader:
    """Reads the events after the last one that it has seen, and compares them with all events."""

    def __init__(self, service: Service, ref: TaskRef) -> None:
        self._service = service
        self._ref = ref
        self._lock = threading.Lock()
        self.seen = dict[int, Event]()
        self.last = 0
        self.faults = list[str]()

    def poll(self) -> None:
        with self._lock:
            page = self._service.events(self._ref, after=self.last)
            for event in page.events:
                if event.number <= self.last:
                    self.faults.append(f"{event} does not come after {self.last}")
                self.seen[event.number] = event
                self.last = event.number
            for event in self._service.events(self._ref).events:
                if event.number > self.last:
                    continue
                if event.number not in self.seen:
                    self.faults.append(f"{event} appeared below {self.last}")
                elif not self._is_same(self.seen[event.number], event):
                    self.faults.append(f"{event} was {self.seen[event.number]}")

    def _is_same(self, before: Event, after: Event) -> bool:
        return (before.name, before.step, before.item, before.text) == (after.name, after.step, after.item, after.text)


class Life:
    """A task of a random life. Its engine polls the readers and acts in the middle of its calls."""

    def __init__(self, folder: Path, seed: int, *, mode: Mode, stream: bool, approval: bool) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._planner = planning(a_plan({"a": "", "b": "", "c": "ab"}))
        catalog = a_catalog({"only": an_engine(), "other": an_engine(model="m-2")})
        self.served = Served(folder, ScriptedEngine(self._answer), catalog=catalog)
        self.ref = self.served.submit(
            mode=mode, stream=stream, plan_approval=approval, limits=Limits(deadline_s=self._draw(None, 3_000))
        )
        self.store = MortalStore(self.served.store._database)
        self.served.use(catalog, self.store)
        elsewhere = self._elsewhere(catalog)
        self.readers = [Reader(self.served.service, self.ref), Reader(elsewhere, self.ref)]

    def _elsewhere(self, catalog: object) -> Service:
        """Return a service of another process, which knows only what is stored."""
        here = self.served.service
        elsewhere = self.served.use(catalog)  # type: ignore[arg-type] # a catalog
        self.served.service = here
        return elsewhere

    def _draw(self, *values: Any) -> Any:
        with self._lock:
            return self._random.choice(values)

    def poll(self) -> None:
        for reader in self.readers:
            if self._draw(True, False):
                reader.poll()

    def _answer(self, call: EngineCall) -> Answer:
        self.poll()
        what = self._draw(*(["answer"] * 6), "busy", "refused", "killed", "cancelled", "empty")
        text = "" if what == "empty" else " ".join(f"word{n}" for n in range(self._draw(1, 3, 9)))
        if call.on_text is not None:
            for piece in text.split(" "):
                call.on_text(f"{piece} ")
                if self._draw(True, False, False):
                    self.poll()
        if what == "busy":
            return EngineUnavailable("The engine is busy.")
        if what == "refused":
            return PromptRefused("The engine refused.")
        if what == "killed":
            self.store.is_killed = True
            raise Killed
        if what == "cancelled":
            with suppress(LLMServerError):
                self.served.service.cancel(self.ref)
        if call.answer_schema is not None:
            return self._planner.complete(call, timeout_s=1)
        return "".join(f"{piece} " for piece in text.split(" ")) if text else ""

    def live(self, steps: int) -> None:
        for step in range(steps):
            self.poll()
            self._move(step)
        for reader in self.readers:
            reader.poll()

    def _move(self, step: int) -> None:
        service, clock = self.served.service, self.served.clock
        what = self._draw(*(["work"] * 4), "approve", "reject", "retry", "sweep", "cancel", "pause")
        clock.pass_s(self._draw(0, 1, 10))
        self.store.is_killed = False
        with suppress(LLMServerError, Killed):
            if what == "work":
                clock.pass_s(self._draw(0, LEASE_S + 10))
                service.process(self.ref, owner=f"w{step}")
            elif what in ("approve", "reject"):
                plan = self.served.get(self.ref).outputs.get(PLAN)
                if plan is not None:
                    service.approve(self.ref, plans.digest(plan.text or ""), approve=what == "approve")
            elif what == "retry":
                service.retry(self.ref)
            elif what == "sweep":
                clock.pass_s(self._draw(10, 4_000))
                service.sweep()
            elif what == "cancel" and self._draw(True, False, False, False):
                service.cancel(self.ref)


@contextmanager
def a_life(seed: int, *, mode: Mode, stream: bool, approval: bool) -> Iterator[Life]:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder), seed, mode=mode, stream=stream, approval=approval)
        yield life
        life.served.store.close()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.sampled_from([Mode.CHAT, Mode.PLAN]), st.booleans(), st.booleans(), st.integers(1, 14))
def test_no_event_appears_below_one_that_a_reader_has_seen(
    seed: int, mode: Mode, stream: bool, approval: bool, steps: int
) -> None:
    """One reader is in the worker's process, the other one sees only what is stored."""
    with a_life(seed, mode=mode, stream=stream, approval=approval and mode is Mode.PLAN) as life:
        life.live(steps)

        for reader in life.readers:
            assert reader.faults == []
            page = reader._service.events(life.ref)
            final = {event.number: event for event in page.events}
            gone = [event for number, event in reader.seen.items() if number not in final]
            assert {event.name for event in gone} <= MAY_DISAPPEAR
            # A killed worker may be storing a piece still: it comes after the last event, and so the next poll gets it.
            assert {number for number in final if number <= reader.last} <= set(reader.seen)
            assert all(number < 2**53 for number in final)
            names = [event.name for event in page.events]
            if page.ended:
                assert names[-1] == "receipt"
                assert names.count("receipt") == 1
                assert life.served.get(life.ref).task.status.lower() in names
        status = life.served.get(life.ref).task.status
        if stream and status is Status.COMPLETED:
            assert life_answer(life) == life.served.get(life.ref).result


def life_answer(life: Life) -> str:
    """Return the text of the last item of the answer."""
    texts = [e for e in life.served.service.events(life.ref).events if e.name == "text.delta" and e.step is None]
    return "".join(event.text or "" for event in texts if event.item == texts[-1].item)
