"""Suspects: tasks whose workers died twice in a row, so that one of them may be the cause."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.worker import SUSPECT_PAUSE_S
from support.scripted_engine import WAIT_S, ScriptedEngine
from support.scripted_service import LEASE_S, SWEEP_S, Served


def deserted(served: Served, times: int, priority: Priority = Priority.INTERACTIVE) -> TaskRef:
    """Submit a task, let `times` workers claim it and die, and let the last lease end."""
    ref = served.submit(priority=priority)
    for _ in range(times):
        task = served.store.peek(ref)
        now_ms = served.clock()
        claimed = task.claimed(owner="dead", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
        served.store.save(task, claimed)
        served.clock.pass_s(LEASE_S)
    return ref


class Meeting:
    """An engine's answer that waits briefly for a second concurrent call; `met` tells whether one came."""

    def __init__(self, wait_s: float) -> None:
        self.met = False
        self._both = threading.Barrier(2, timeout=wait_s)

    def __call__(self, call: EngineCall) -> str:
        try:
            self._both.wait()
            self.met = True
        except threading.BrokenBarrierError:
            self._both.reset()
        return "Hello."


@pytest.mark.parametrize(("deaths", "together"), [(1, True), (2, False)])
def test_tasks_whose_workers_died_twice_are_processed_one_at_a_time(
    tmp_path: Path, deaths: int, together: bool
) -> None:
    """A harmless suspect then completes first, or waits unclaimed while the harmful one runs."""
    meeting = Meeting(WAIT_S if together else 0.1)
    served = Served(tmp_path, ScriptedEngine(meeting))
    refs = [deserted(served, deaths) for _ in range(2)]
    served.clock.pass_s(LEASE_S)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda ref: served.service.process(ref, owner="w"), refs))
    served.work()

    assert meeting.met is together
    assert {served.store.peek(ref).status for ref in refs} == {"Completed"}
    served.audit()
    served.close()


def test_a_suspect_that_must_wait_is_no_delivery_and_holds_no_worker(tmp_path: Path) -> None:
    """Its message comes again after a pause. Hundreds of suspects would hold all workers otherwise."""
    tasks = list[Task]()

    def meanwhile(call: EngineCall) -> str:
        while served.queue.receive(0):  # those of the submissions
            pass
        for ref in refs[1:]:
            served.service.process(ref, owner="w")
            tasks.append(served.store.peek(ref))
        early.append(served.queue.receive(0))
        served.clock.pass_s(SUSPECT_PAUSE_S)
        late.extend(served.queue.receive(0) for _ in refs[1:])
        return "Hello."

    early, late = list[Message | None](), list[Message | None]()
    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    refs = [deserted(served, 2) for _ in range(20)]

    served.service.process(refs[0], owner="w")

    assert {task.deliveries for task in tasks} == {2}
    assert early == [None]
    assert late == [Message(ref) for ref in refs[1:]]
    served.close()


def test_a_suspect_that_waits_goes_on_as_soon_as_the_other_one_has_ended(tmp_path: Path) -> None:
    """Not only after the pause; and so do those behind it, in their order."""

    def meanwhile(call: EngineCall) -> str:
        for ref in refs[1:]:
            served.service.process(ref, owner="w")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    refs = [deserted(served, 2) for _ in range(4)]
    while served.queue.receive(0):
        pass

    served.service.process(refs[0], owner="w")
    for ref in refs[1:]:
        assert served.queue.receive(0) == Message(ref)
        served.service.process(ref, owner="w")
        assert served.store.peek(ref).status == "Completed"

    assert served.queue.receive(0) is None
    served.clock.pass_s(SUSPECT_PAUSE_S)
    assert served.work() == 3  # the delayed messages find nothing to do
    assert len(served.engine.calls) == 4
    served.audit()
    served.close()


def test_a_suspect_that_waits_keeps_its_priority(tmp_path: Path) -> None:
    """Of its message that comes when its turn comes, and of the one that comes after the pause."""

    def meanwhile(call: EngineCall) -> str:
        served.service.process(second, owner="w")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    first, second = deserted(served, 2), deserted(served, 2, Priority.BATCH)
    while served.queue.receive(0):
        pass

    served.service.process(first, owner="w")
    assert served.queue.receive(0) == Message(second, Priority.BATCH)
    served.clock.pass_s(SUSPECT_PAUSE_S)
    assert served.queue.receive(0) == Message(second, Priority.BATCH)
    served.close()


def test_each_suspect_that_waits_is_woken_once(tmp_path: Path) -> None:
    """If one goes on by its own message, the turn after it is not spent on it, or on one that was woken before."""

    def meanwhile(call: EngineCall) -> str:
        for ref in (woken, early, last):
            served.service.process(ref, owner="w")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    first, woken, early, last = [deserted(served, 2) for _ in range(4)]
    while served.queue.receive(0):
        pass

    served.service.process(first, owner="w")
    assert served.queue.receive(0) == Message(woken)
    served.service.process(early, owner="w")

    assert served.store.peek(early).status == "Completed"
    assert served.queue.receive(0) == Message(last)
    served.close()


def test_a_suspect_whose_wake_up_cannot_be_sent_is_left_to_the_sweep(tmp_path: Path) -> None:
    def meanwhile(call: EngineCall) -> str:
        served.queue.down = True
        served.service.process(second, owner="w")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    first, second = deserted(served, 2), deserted(served, 2)
    served.service.process(first, owner="w")
    served.queue.down = False
    assert served.store.peek(first).status == "Completed"

    served.clock.pass_s(SWEEP_S)
    served.service.sweep()
    served.work()

    assert served.store.peek(second).status == "Completed"
    served.audit()
    served.close()


@pytest.mark.parametrize("error", [ZeroDivisionError(), StorageUnavailable("Away.")])
def test_the_next_suspect_goes_on_after_one_that_exploded(tmp_path: Path, error: Exception) -> None:
    def meanwhile(call: EngineCall) -> str:
        served.service.process(second, owner="w")
        raise error

    served = Served(tmp_path, ScriptedEngine(meanwhile, "Hello."))
    first, second = deserted(served, 2), deserted(served, 2)
    while served.queue.receive(0):
        pass

    with pytest.raises(type(error)):
        served.service.process(first, owner="w")
    served.work()

    assert served.store.peek(second).status == "Completed"
    served.close()


def test_a_second_wake_up_for_a_suspect_in_progress_returns_at_once(tmp_path: Path) -> None:
    """Its worker thread is free for other tasks."""

    def meanwhile(call: EngineCall) -> str:
        served.service.process(ref, owner="second")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile))
    ref = deserted(served, 2)

    served.service.process(ref, owner="first")

    assert served.store.peek(ref).status == "Completed"
    served.audit()
    served.close()
