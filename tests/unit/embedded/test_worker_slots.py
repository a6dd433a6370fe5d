"""Few workers compute at a time, but that does not limit how many tasks are in progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from random import Random

import pytest

from llm_server.embedded.slots import Slots
from llm_server.embedded.workers import Workers
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from support.deliveries import a_plan
from support.scripted_engine import WAIT_S, Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served

STEPS = a_plan({"a": "", "b": "", "c": "", "d": ""})


class Crew:
    """Workers whose slots the service knows, and an engine of many places."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.made: Workers | None = None

    def work(
        self,
        answer: Callable[[EngineCall], Answer],
        *,
        slots: int,
        limit: int,
        places: int = 500,
        max_idle_s: float = 10,
    ) -> Slots:
        """Start the workers."""
        made, numbers = Slots(slots), count(1)
        self._served.engine = ScriptedEngine(answer)
        catalog = a_catalog({"only": an_engine(max_concurrency=places)})
        self.made = Workers(
            self._served.use(catalog, waiting=made.waiting),
            self._served.queue,
            limit=lambda: limit,
            sweep_s=60,
            new_id=lambda: f"w{next(numbers)}",
            slots=made,
            max_idle_s=max_idle_s,
        )
        self.made.start()
        return made


@pytest.fixture
def crew(served: Served) -> Iterator[Crew]:
    crew = Crew(served)
    yield crew
    assert crew.made
    assert crew.made.stop(WAIT_S) == 0


def all_end(served: Served, refs: list[TaskRef], within_s: float = WAIT_S) -> bool:
    """Wait until all tasks are Completed; return whether they are in time."""
    end = time.monotonic() + within_s
    left = list(refs)
    while left and time.monotonic() < end:
        left = [ref for ref in left if served.store.peek(ref).status is not Status.COMPLETED]
        time.sleep(0.005)
    return not left


def test_tasks_that_wait_for_an_engine_hold_no_slot(served: Served, crew: Crew) -> None:
    """Twenty tasks meet in the engine, though there is one slot."""
    together = threading.Barrier(20, timeout=WAIT_S)

    def meet(call: EngineCall) -> Answer:
        together.wait()
        return "Hello."

    slots = crew.work(meet, slots=1, limit=20)
    refs = [served.submit(mode="Chat") for _ in range(20)]

    assert all_end(served, refs)
    assert slots.any_free


def test_tasks_that_wait_for_a_busy_engine_hold_no_slot(served: Served, crew: Crew) -> None:
    """While one call has the engine's only place, all other tasks are claimed."""
    asked, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        asked.set()
        leave.wait(WAIT_S)
        return "Hello."

    slots = crew.work(slow, slots=1, limit=20, places=1)
    refs = [served.submit(mode="Chat") for _ in range(12)]
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and any(served.store.peek(ref).status is Status.QUEUED for ref in refs):
        time.sleep(0.005)

    assert {served.store.peek(ref).status for ref in refs} == {Status.PROCESSING}
    assert asked.is_set()
    assert len(served.engine.calls) == 1
    leave.set()
    assert all_end(served, refs)
    assert slots.any_free


def test_plans_that_wait_for_their_steps_do_not_keep_a_chat_waiting(served: Served, crew: Crew) -> None:
    """Eight plans with four slow steps each, and one slot."""
    leave, steps = threading.Event(), threading.Semaphore(0)

    def answer(call: EngineCall) -> Answer:
        if "Chat!" in call.prompt:
            return "Hello."
        if call.answer_schema:
            return STEPS
        steps.release()
        leave.wait(WAIT_S)
        return "Done."

    slots = crew.work(answer, slots=1, limit=20)
    plans = [served.submit(mode="Plan") for _ in range(8)]
    assert all(steps.acquire(timeout=WAIT_S) for _ in range(8))
    chat = served.submit("Chat!", mode="Chat")

    assert all_end(served, [chat])
    assert not leave.is_set()
    leave.set()
    assert all_end(served, plans)
    assert slots.any_free


@pytest.mark.parametrize("seed", range(3))
def test_every_task_ends_while_slots_and_workers_come_and_go(served: Served, crew: Crew, seed: int) -> None:
    """A message that is left while a slot is free, and no worker waits for it, would stay there."""
    random = Random(seed)

    def answer(call: EngineCall) -> Answer:
        time.sleep(random.random() * 0.02)
        return "Hello."

    slots = crew.work(answer, slots=2, limit=50, max_idle_s=0.005)
    refs = list[TaskRef]()
    for n in range(300):
        refs.append(served.submit(f"Say {n}.", mode="Chat"))
        if random.random() < 0.05:
            time.sleep(random.random() * 0.03)

    assert all_end(served, refs, within_s=2 * WAIT_S)
    assert served.queue.depth() == 0
    assert slots.any_free
