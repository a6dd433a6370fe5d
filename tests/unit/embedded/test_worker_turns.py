"""Workers and the places of an engine go to tenants by turns, even while the tasks of one tenant hold all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from llm_server.embedded.slots import Slots
from llm_server.embedded.workers import Workers
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.status import Mode, Priority, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from support.deliveries import a_plan
from support.scripted_engine import WAIT_S, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served

LIMIT = 8


class Gate:
    """An engine's calls: each waits until `let` lets one of those go on that began first. `begun` are their prompts."""

    def __init__(self) -> None:
        self.begun = list[str]()
        self._lock = threading.Lock()
        self._waiting = list[threading.Event]()

    def __call__(self, call: EngineCall) -> str:
        mine = threading.Event()
        with self._lock:
            self.begun.append(call.prompt)
            self._waiting.append(mine)
        assert mine.wait(WAIT_S)
        return "Hello."

    def let(self, number: int = 1) -> None:
        """Let some calls go on; wait for each of them to begin."""
        for _ in range(number):
            assert holds(lambda: bool(self._waiting))
            with self._lock:
                self._waiting.pop(0).set()

    def all_go_on(self) -> None:
        for event in self._waiting:
            event.set()


def holds(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds."""
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Crew:
    """Eight workers for an engine with some places, whose calls a gate holds."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.gate = Gate()
        self.made = list[Workers]()

    def work(self, answer: Callable[[EngineCall], Any] | None = None, *, places: int) -> None:
        slots, numbers = Slots(8), count(1)
        self.served.engine = ScriptedEngine(answer or self.gate)
        service = self.served.use(a_catalog({"only": an_engine(max_concurrency=places)}), waiting=slots.waiting)
        workers = Workers(
            service,
            self.served.queue,
            limit=lambda: LIMIT,
            sweep_s=60,
            new_id=lambda: f"w{next(numbers)}",
            slots=slots,
        )
        self.made.append(workers)
        workers.start()

    def submit(self, tenant: str, prompt: str = "", **fields: Any) -> TaskRef:
        task = self.served.service.submit(tenant, NewTask(prompt=prompt or tenant, **fields))
        self.served.refs.append(task.ref)
        return task.ref

    def in_work(self, tenant: str) -> int:
        refs = [ref for ref in self.served.refs if ref.tenant == tenant]
        return sum(self.served.store.peek(ref).status.is_active for ref in refs)

    def wait_for_a_place(self) -> int:
        """Return how many calls wait for a place of the engine."""
        return len(self.served.service._intake._balancer.calls._places._waiting["only"])

    def finish(self) -> None:
        """Let all calls go on until every task is Completed."""

        def are_final() -> bool:
            self.gate.all_go_on()
            return all(self.status(ref).is_final for ref in self.served.refs)

        assert holds(are_final)
        assert {self.status(ref) for ref in self.served.refs} == {Status.COMPLETED}

    def status(self, ref: TaskRef) -> Status:
        return self.served.store.peek(ref).status


@pytest.fixture
def crew(served: Served) -> Iterator[Crew]:
    crew = Crew(served)
    yield crew
    crew.gate.all_go_on()
    for workers in crew.made:
        assert workers.stop(WAIT_S) == 0


def test_a_task_is_begun_although_the_tasks_of_another_tenant_hold_all_workers(crew: Crew) -> None:
    """The engine has room for it. It waits for no call of the other tenant."""
    crew.work(places=64)
    for n in range(20):
        crew.submit("a", f"a{n}")
    assert holds(lambda: len(crew.gate.begun) == LIMIT)

    ref = crew.submit("b")
    assert holds(lambda: "b" in crew.gate.begun)
    assert crew.in_work("a") == LIMIT
    crew.finish()
    assert crew.status(ref) is Status.COMPLETED


def test_the_next_place_of_an_engine_goes_to_the_tenant_that_has_none(crew: Crew) -> None:
    """One call of the other tenant is being made, seven wait for the place, and twelve tasks wait for a worker."""
    crew.work(places=1)
    for n in range(20):
        crew.submit("a", f"a{n}")
    assert holds(lambda: crew.wait_for_a_place() == LIMIT - 1)
    crew.submit("b")
    assert holds(lambda: crew.wait_for_a_place() == LIMIT)

    crew.gate.let()
    assert holds(lambda: len(crew.gate.begun) == 2)
    assert crew.gate.begun[1] == "b"
    crew.finish()


def test_an_interactive_task_goes_before_the_batch_tasks_of_its_tenant(crew: Crew) -> None:
    """Also before those that have a worker already, and wait for the engine."""
    crew.work(places=1)
    for n in range(20):
        crew.submit("a", f"batch{n}", priority=Priority.BATCH)
    assert holds(lambda: crew.wait_for_a_place() == LIMIT - 1)
    crew.submit("a", "now")
    assert holds(lambda: crew.wait_for_a_place() == LIMIT)

    crew.gate.let()
    assert holds(lambda: len(crew.gate.begun) == 2)
    assert crew.gate.begun[1] == "now"
    crew.finish()


def test_a_tenant_with_long_plans_keeps_no_worker_from_others(crew: Crew) -> None:
    """A plan holds its worker until its last step has ended. Its steps are calls of their tenant, too."""
    steps = a_plan({"a": "", "b": "", "c": "", "d": ""})

    def answer(call: EngineCall) -> str:
        if call.answer_schema:
            return steps
        return crew.gate(call)

    crew.work(answer, places=4)
    refs = [crew.submit("a", f"a{n}", mode=Mode.PLAN, profile="General") for n in range(LIMIT + 2)]

    def calls() -> int:
        """Return how many calls the tasks in work make: those for the plan, or those of its four steps."""
        return sum({Status.PROCESSING: 1, Status.PLANNED: 4}.get(crew.status(ref), 0) for ref in refs)

    assert holds(
        lambda: (crew.in_work("a"), len(crew.gate.begun)) == (LIMIT, 4) and crew.wait_for_a_place() == calls() - 4
    )
    waiting = crew.wait_for_a_place()
    crew.submit("b", "of tenant b", mode=Mode.CHAT)
    assert holds(lambda: crew.wait_for_a_place() == waiting + 1)
    crew.gate.let()
    assert holds(lambda: len(crew.gate.begun) == 5)
    assert "of tenant b" in crew.gate.begun[4]
    crew.finish()
