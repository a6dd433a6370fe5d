"""The embedded workers process all messages, survive exceptions, and end when they are stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from llm_server.embedded.slots import Slots
from llm_server.embedded.workers import RETRY_S, Workers, workers_for
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Priority, Status
from llm_server.orchestration.domain.task import TaskRef
from support.scripted_engine import WAIT_S, Answer, ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served

Crew = Callable[..., Workers]


@pytest.fixture
def crew(served: Served) -> Iterator[Crew]:
    """Make workers; they are stopped at the end of the test."""
    made: list[Workers] = []

    def make(limit: int = 1, sweep_s: int = 60, max_idle_s: float = 10.0, slots: Slots | None = None) -> Workers:
        numbers = count(1)
        workers = Workers(
            served.service,
            served.queue,
            limit=lambda: limit,
            sweep_s=sweep_s,
            new_id=lambda: f"w{next(numbers)}",
            slots=slots or Slots(8),
            max_idle_s=max_idle_s,
        )
        made.append(workers)
        workers.start()
        return workers

    yield make
    for workers in made:
        assert workers.stop(WAIT_S) == 0


def use(served: Served, *answers: Answer | Callable[[EngineCall], Answer]) -> None:
    served.engine = ScriptedEngine(*answers)
    served.use(a_catalog({"only": an_engine()}))


def ended(served: Served, ref: TaskRef) -> Status:
    """Return a task's status once it is final."""
    waiting = threading.Event()
    for _ in range(int(WAIT_S / 0.005)):
        if served.service.is_final(ref):
            break
        waiting.wait(0.005)
    return served.get(ref).task.status


def test_a_worker_takes_tasks_as_they_come(served: Served, crew: Crew) -> None:
    """This holds for tasks from before the start, and for later ones."""
    first = served.submit()
    crew()
    second = served.submit()

    assert [ended(served, first), ended(served, second)] == [Status.COMPLETED] * 2


def test_workers_work_side_by_side(served: Served, crew: Crew) -> None:
    """Three tasks meet in the engine at a barrier."""
    together = threading.Barrier(3, timeout=WAIT_S)

    def meet(call: EngineCall) -> Answer:
        together.wait()
        return "Hello."

    use(served, meet)
    crew(3)
    refs = [served.submit() for _ in range(3)]

    assert [ended(served, ref) for ref in refs] == [Status.COMPLETED] * 3


def holds(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds."""
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


class Held:
    """An engine's answers that wait until `leave` is set; `calls` wait now."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, call: EngineCall) -> Answer:
        with self._lock:
            self.calls += 1
        self.leave.wait(WAIT_S)
        return "Hello."


def test_workers_are_started_when_they_are_needed_up_to_the_limit(served: Served, crew: Crew) -> None:
    """One more than there are tasks waits for the next task; at the limit, it takes none of the same tenant."""
    held = Held()
    use(served, held)
    workers = crew(4)
    assert holds(lambda: workers.count == 1)

    refs = [served.submit() for _ in range(2)]
    assert holds(lambda: (held.calls, workers.count) == (2, 3))
    refs += [served.submit() for _ in range(4)]
    assert holds(lambda: held.calls == 4)
    time.sleep(0.05)
    assert (held.calls, workers.count) == (4, 5)
    held.leave.set()

    assert [ended(served, ref) for ref in refs] == [Status.COMPLETED] * 6


def test_tasks_that_come_one_by_one_need_few_workers(served: Served, crew: Crew) -> None:
    workers, worker = crew(8), served.service._worker
    assert worker
    for _ in range(8):
        assert ended(served, served.submit()) is Status.COMPLETED
        assert holds(lambda: worker._running == [])
        time.sleep(0.02)  # until the worker waits again

    assert workers.count <= 3


def test_a_limit_that_rises_while_the_server_runs_holds_at_the_next_task(served: Served) -> None:
    """An operator switches an engine on."""
    held, limits = Held(), [1]
    use(served, held)
    new_id = map(str, count()).__next__
    workers = Workers(served.service, served.queue, limit=lambda: limits[-1], sweep_s=60, new_id=new_id, slots=Slots(8))
    workers.start()
    served.submit()
    assert holds(lambda: held.calls == 1)
    limits.append(2)
    held.leave.set()
    served.submit()

    assert holds(lambda: workers.count == 2)
    assert workers.stop(WAIT_S) == 0


def test_workers_that_are_not_needed_end_but_for_one(served: Served, crew: Crew) -> None:
    held = Held()
    use(served, held)
    workers = crew(4, max_idle_s=0.5)
    refs = [served.submit() for _ in range(4)]
    assert holds(lambda: workers.count == 4)
    held.leave.set()

    assert holds(lambda: workers.count == 1)
    assert [ended(served, ref) for ref in (*refs, served.submit())] == [Status.COMPLETED] * 5


def test_no_task_is_left_while_workers_come_and_go(served: Served, crew: Crew) -> None:
    """Workers end after a hundredth of the usual time, while tasks come."""
    use(served, "Hello.")
    crew(8, max_idle_s=0.002)
    refs = []
    for n in range(60):
        refs.append(served.submit())
        time.sleep(0.004 * (n % 3))

    assert {ended(served, ref) for ref in refs} == {Status.COMPLETED}
    assert served.queue.depth() == 0


def test_stopping_ends_the_wait_of_idle_workers_at_once(served: Served, crew: Crew) -> None:
    held = Held()
    use(served, held)
    workers = crew(4)
    refs = [served.submit() for _ in range(3)]
    assert holds(lambda: workers.count == 4)
    held.leave.set()
    assert [ended(served, ref) for ref in refs] == [Status.COMPLETED] * 3
    began = time.monotonic()

    assert workers.stop(WAIT_S) == 0
    assert time.monotonic() - began < 1


def test_a_task_is_carried_out_though_no_other_thread_can_be_started(
    served: Served, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system limits the threads of a user."""
    workers = crew(4)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    refs = [served.submit() for _ in range(2)]

    assert [ended(served, ref) for ref in refs] == [Status.COMPLETED] * 2
    assert workers.count == 1


@pytest.mark.parametrize(
    ("places", "number"),
    [({}, 8), ({"local": 1}, 8), ({"claude": 200, "local": 64}, 264), ({"a": 512}, 512), ({"a": 500, "b": 500}, 512)],
)
def test_the_engines_decide_how_many_workers_there_may_be(places: dict[str, int], number: int) -> None:
    assert workers_for(places) == number


@pytest.mark.parametrize("error", [ZeroDivisionError(), StorageUnavailable("Away.")])
def test_a_task_that_explodes_does_not_end_its_worker(served: Served, crew: Crew, error: Exception) -> None:
    """The same thread processes the next task; the sweep wakes the failed one when its lease has ended."""
    use(served, error, "Hello.")
    broken = served.submit()
    crew()
    other = served.submit()

    assert ended(served, other) is Status.COMPLETED
    assert served.get(broken).task.status is Status.PROCESSING
    served.clock.pass_s(SWEEP_S + LEASE_S)
    served.service.sweep()
    assert ended(served, broken) is Status.COMPLETED


def test_a_message_comes_again_when_the_database_failed(served: Served, crew: Crew) -> None:
    """SQS does the same. For a cancelled task, which the sweep ignores, only its message leads to the settlement."""
    failed, sent_again, send = threading.Event(), threading.Event(), served.queue.send

    def away(ref: TaskRef) -> Snapshot:
        del served.store.get
        failed.set()
        raise StorageUnavailable(f"{ref} cannot be read.")

    def watched(ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        send(ref, delay_s=delay_s, priority=priority)
        if failed.is_set():
            sent_again.set()

    served.store.get = away  # type: ignore[method-assign]
    served.queue.send = watched  # type: ignore[method-assign]
    ref = served.submit()
    crew()
    assert sent_again.wait(WAIT_S)
    served.clock.pass_s(RETRY_S)

    assert ended(served, ref) is Status.COMPLETED


def test_a_task_that_waits_is_carried_out_as_soon_as_its_engine_is_switched_on(served: Served, crew: Crew) -> None:
    """The next sweep comes in a minute, and the task's message in another one by the clock, which stands still here."""
    served.service.switch_engine("only", {"toggle": False})
    refs = [served.submit() for _ in range(20)]
    crew(limit=4)
    waiting = threading.Event()
    while not all(served.get(ref).task.is_waiting for ref in refs):
        waiting.wait(0.005)

    served.service.switch_engine("only", {"toggle": True})
    assert {ended(served, ref) for ref in refs} == {Status.COMPLETED}
    assert len(served.engine.calls) == 20


def test_a_switch_during_a_sweep_wakes_the_tasks_at_once(served: Served, crew: Crew) -> None:
    """A sweep may take 55 s. This one ends only after the tasks are done."""
    served.service.switch_engine("only", {"toggle": False})
    ref = served.submit()
    begun, leave, over = threading.Event(), threading.Event(), threading.Event()

    def long(goes_on: Callable[[], bool]) -> int:
        begun.set()
        leave.wait(WAIT_S)
        over.set()
        return 0

    served.service.sweep = long  # type: ignore[method-assign, assignment]
    crew()
    assert begun.wait(WAIT_S)
    assert holds(lambda: served.get(ref).task.is_waiting)
    served.service.switch_engine("only", {"toggle": True})
    status, was_over = ended(served, ref), over.is_set()
    leave.set()

    assert (status, was_over) == (Status.COMPLETED, False)


def test_the_waker_rests_until_the_next_switch(served: Served, crew: Crew) -> None:
    woken = list[float]()

    def wake(goes_on: Callable[[], bool]) -> int:
        woken.append(time.monotonic())
        return 0

    served.service.wake_waiting = wake  # type: ignore[method-assign, assignment]
    crew()
    served.service.switch_engine("only", {"toggle": True})
    assert holds(lambda: len(woken) >= 1)
    time.sleep(0.05)

    assert len(woken) == 1


def test_waking_that_explodes_does_not_end_later_waking(served: Served, crew: Crew) -> None:
    woken = [threading.Event(), threading.Event()]
    numbers = count()

    def unsteady(goes_on: Callable[[], bool]) -> int:
        woken[next(numbers)].set()
        raise ZeroDivisionError

    served.service.wake_waiting = unsteady  # type: ignore[method-assign, assignment]
    crew()
    for each in woken:
        served.service.switch_engine("only", {"toggle": True})
        assert each.wait(WAIT_S)


def test_the_sweeper_wakes_at_the_start_and_then_in_its_own_time(served: Served, crew: Crew) -> None:
    """Tasks that an earlier process left are not kept waiting."""
    served.queue.down = True
    ref = served.submit()
    served.queue.down = False
    served.clock.pass_s(SWEEP_S)
    crew()

    assert ended(served, ref) is Status.COMPLETED


def test_a_sweep_that_explodes_does_not_end_the_sweeper(served: Served, crew: Crew) -> None:
    """The queue fails at the first sweep and works at the second one."""
    swept, sweep = count(1), served.service.sweep
    again = threading.Event()

    def unsteady(goes_on: Callable[[], bool]) -> int:
        if next(swept) == 1:
            raise ZeroDivisionError
        again.set()
        return sweep(goes_on)

    served.service.sweep = unsteady  # type: ignore[method-assign, assignment]
    crew(sweep_s=0)

    assert again.wait(WAIT_S)


def test_a_sweep_that_took_long_does_not_make_the_next_one_late(served: Served, crew: Crew) -> None:
    """The period of a second counts from start to start."""
    started, again = list[float](), threading.Event()

    def slow(goes_on: Callable[[], bool]) -> int:
        started.append(time.monotonic())
        if len(started) == 2:
            again.set()
        return int(threading.Event().wait(1.1))

    served.service.sweep = slow  # type: ignore[method-assign, assignment]
    crew(sweep_s=1)

    assert again.wait(WAIT_S)
    assert started[1] - started[0] < 2


def test_stopping_ends_a_sweep(served: Served, crew: Crew) -> None:
    """A sweep may have thousands of tasks to look at."""
    swept = threading.Event()

    def endless(goes_on: Callable[[], bool]) -> int:
        while goes_on():
            swept.set()
        return 0

    served.service.sweep = endless  # type: ignore[method-assign, assignment]
    workers = crew()
    assert swept.wait(WAIT_S)

    assert workers.stop(WAIT_S) == 0


def test_stopping_waits_for_the_task_in_hand_and_takes_no_other(served: Served, crew: Crew) -> None:
    """It waits for the given time; a task that is not done by then continues at the next start."""
    begun, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        leave.wait(WAIT_S)
        return "Hello."

    use(served, slow)
    in_hand = served.submit()
    workers = crew()
    assert begun.wait(WAIT_S)
    waiting = served.submit()

    assert workers.stop(0.01) >= 1
    leave.set()
    assert workers.stop(WAIT_S) == 0

    assert ended(served, in_hand) is Status.COMPLETED
    assert served.get(waiting).task.status is Status.QUEUED


def test_workers_that_never_began_stop_all_the_same(served: Served) -> None:
    """If the start fails half-way, stopping must not fail as well."""
    workers = Workers(served.service, served.queue, limit=lambda: 2, sweep_s=60, new_id=lambda: "w", slots=Slots(8))

    assert workers.stop(0) == 0
