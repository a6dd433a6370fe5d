"""Tasks that wait for an engine are woken when one is back, without waiting for their delayed messages.

The messages of a task that waits while no engine is switched on are delayed for 60 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import count

import pytest

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName
from llm_server.orchestration.domain.errors import EngineUnavailable, RecordUnreadable, StorageUnavailable
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.service import Service
from llm_server.storage.sqlite.database import Database
from support.scripted_engine import Answer, ScriptedEngine, WatchedStore, a_catalog, an_engine
from support.scripted_service import Served

ON: Mapping[SwitchName, bool] = {"toggle": True}
OFF: Mapping[SwitchName, bool] = {"toggle": False}
LOCKED: Mapping[SwitchName, bool] = {"locked": True}
KNOWN_S = 5
"""How long it takes until every process knows of a switch."""


def wait(served: Served, tasks: int = 1, deadline_s: float | None = None) -> list[TaskRef]:
    """Switch the engine off, and let this many tasks wait for it."""
    served.service.switch_engine("only", OFF)
    refs = [served.submit(f"Say {n}.", limits=Limits(deadline_s=deadline_s)) for n in range(tasks)]
    served.work()
    assert all(served.get(ref).task.is_waiting for ref in refs)
    return refs


@pytest.fixture
def other(served: Served) -> Iterator[Service]:
    """Another process on the same tasks, such as the function that serves the API."""
    with closing(WatchedStore(Database(served.path))) as store:
        other = served.use(a_catalog({"only": an_engine()}), store)
        served.use(a_catalog({"only": an_engine()}))
        yield other


def test_a_switch_wakes_them_at_once(served: Served) -> None:
    """In the order in which they began to wait. Their delayed messages then find nothing to do."""
    refs = wait(served, 3)
    served.service.switch_engine("only", ON)

    assert served.service.wake_waiting() == 3
    assert served.work() == 3
    assert [call.prompt for call in served.engine.calls] == ["Say 0.", "Say 1.", "Say 2."]
    assert {served.get(ref).task.status for ref in refs} == {Status.COMPLETED}
    served.clock.pass_s(60)
    assert (served.work(), len(served.engine.calls)) == (3, 3)


def test_a_switch_wakes_all_of_them_however_long_it_takes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a second here. The sweep, which has other tasks to look at, stops after 15 s of it."""
    wait(served, 40)
    served.service.switch_engine("only", ON)
    postpone = served.store.postpone

    def slow(due: Due, task: Task | None, due_ms: int) -> bool:
        served.clock.pass_s(1)
        return postpone(due, task, due_ms)

    monkeypatch.setattr(served.store, "postpone", slow)

    assert served.service.wake_waiting() == 40


def test_no_more_are_woken_once_the_engine_is_off_again(served: Served) -> None:
    """They would only find out that they must wait again."""
    wait(served, 40)
    served.service.switch_engine("only", ON)
    looks = count(1)

    def switched_off_at_the_tenth() -> bool:
        if next(looks) == 10:
            served.service.switch_engine("only", OFF)
        return True

    assert served.service.wake_waiting(switched_off_at_the_tenth) <= 10


def test_each_is_woken_once(served: Served) -> None:
    """No worker has come yet; the sweep leaves them their messages."""
    wait(served, 3)
    served.service.switch_engine("only", ON)
    woken = [served.service.wake_waiting() for _ in range(3)]
    served.clock.pass_s(KNOWN_S)

    assert woken == [3, 0, 0]
    assert served.service.sweep() == 0


def test_a_task_that_another_process_has_woken_meanwhile_is_left_to_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(served)
    served.service.switch_engine("only", ON)
    postpone = served.store.postpone

    def beaten(due: Due, task: Task | None, due_ms: int) -> bool:
        postpone(due, task, due_ms)
        return postpone(due, task, due_ms)

    monkeypatch.setattr(served.store, "postpone", beaten)

    assert served.service.wake_waiting() == 0


def test_tasks_with_a_deadline_are_woken_too(served: Served) -> None:
    """The sweep keeps them apart from the others, because it must look at them on time."""
    (ref,) = wait(served, 1, deadline_s=100)
    served.service.switch_engine("only", ON)
    served.service.wake_waiting()
    served.work()

    assert served.get(ref).result == "Hello."


@pytest.mark.parametrize("changes", [OFF, LOCKED])
def test_none_is_woken_while_the_engine_cannot_be_asked(served: Served, changes: Mapping[SwitchName, bool]) -> None:
    wait(served)
    served.service.switch_engine("only", {**ON, **changes})

    assert served.service.wake_waiting() == 0


def test_none_is_woken_while_the_engine_rests(served: Served) -> None:
    wait(served)
    served.store.save_engine_state("only", EngineState(failures=1, rest_until_ms=served.clock() + 60_000))
    served.service.switch_engine("only", ON)

    assert served.service.wake_waiting() == 0


def test_a_task_that_waits_for_its_next_try_keeps_its_pause(served: Served) -> None:
    """A 500 may be caused by the task's prompt; a switch of the engine changes nothing about it."""
    served.engine = ScriptedEngine(EngineUnavailable("The engine failed (HTTP 500).", may_be_billed=True), "Hello.")
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    served.work()
    served.clock.pass_s(5)
    served.service.switch_engine("only", ON)

    assert served.get(ref).task.status is Status.QUEUED
    assert served.service.wake_waiting() == 0


def test_the_sweep_wakes_them_after_a_switch_in_another_process(served: Served, other: Service) -> None:
    """On AWS the API function switches, and the worker function sweeps."""
    refs = wait(served, 3)
    served.clock.pass_s(20)
    other.switch_engine("only", ON)
    served.clock.pass_s(KNOWN_S)

    assert (served.service.sweep(), served.work()) == (3, 3)
    assert {served.get(ref).result for ref in refs} == {"Hello."}


def test_the_messages_of_the_sweep_come_when_every_process_knows_of_the_switch(served: Served, other: Service) -> None:
    """A worker that still takes the engine for switched off would drop them."""
    (ref,) = wait(served)
    served.clock.pass_s(KNOWN_S)
    served.service.engine_specs()  # this process reads the switches now, and again in 5 s
    other.switch_engine("only", ON)

    assert (served.service.sweep(), served.work()) == (1, 0)
    served.clock.pass_s(KNOWN_S)
    assert (served.work(), served.get(ref).result) == (1, "Hello.")


def test_a_task_that_a_worker_put_off_just_after_the_switch_is_woken(served: Served, other: Service) -> None:
    """The worker had read the switches 4 s before."""
    wait(served)
    served.service.engine_specs()
    other.switch_engine("only", ON)
    served.clock.pass_s(4)
    late = served.submit()
    served.work()
    assert served.get(late).task.is_waiting
    served.clock.pass_s(1)

    assert served.service.sweep() == 2


def test_a_task_that_began_to_wait_after_a_switch_is_left_alone(served: Served) -> None:
    """Its worker knew of the switch, and the engine that it waits for is another one, which is still off."""
    service = served.use(a_catalog({"only": an_engine(), "away": an_engine()}))
    ref = served.submit(engine="away")
    service.switch_engine("away", OFF)
    service.switch_engine("only", ON)
    served.clock.pass_s(KNOWN_S)
    served.work()

    assert served.get(ref).task.is_waiting
    assert (service.wake_waiting(), service.sweep()) == (0, 0)


def test_a_recovery_counts_like_a_switch(served: Served) -> None:
    """While one task probes the engine after its rest, the other one waits 15 s; the end of the probe wakes it."""
    changes = list[int]()

    def probed(call: EngineCall) -> Answer:
        if call.prompt == "Probe.":
            served.service.process(waiting, owner="other")
            assert served.get(waiting).task.is_waiting
        return "Hello."

    served.engine = ScriptedEngine(probed)
    service = served.use(a_catalog({"only": an_engine()}))
    service.when_engines_change(lambda: changes.append(served.clock()))
    served.store.save_engine_state("only", EngineState(failures=1, rest_until_ms=served.clock() - 1))
    probing, waiting = served.submit("Probe."), served.submit("Wait.")
    service.process(probing, owner="first")

    assert changes == [served.clock()]
    assert service.wake_waiting() == 1
    served.work()
    assert served.get(waiting).result == "Hello."


def test_a_switch_of_an_hour_ago_costs_no_look(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then, each task has looked at its engine by itself, so the sweep reads only what is due."""
    looked_until = list[int]()
    served.service.switch_engine("only", ON)
    served.clock.pass_s(3_600)
    due = served.store.due

    def watched(until_ms: int) -> Iterator[Due]:
        looked_until.append(until_ms)
        return due(until_ms)

    monkeypatch.setattr(served.store, "due", watched)
    served.service.sweep()

    assert looked_until == [served.clock()]


def test_a_sweep_that_has_woken_all_in_time_does_not_look_for_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is a query of every part of the index, and costs money on AWS."""
    wait(served)
    served.service.switch_engine("only", ON)
    looks, due = list[int](), served.store.due

    def watched(until_ms: int) -> Iterator[Due]:
        looks.append(until_ms)
        return due(until_ms)

    monkeypatch.setattr(served.store, "due", watched)

    assert (served.service.sweep(), len(looks)) == (1, 2)


@pytest.mark.parametrize("error", [RecordUnreadable(), StorageUnavailable("Away.")])
def test_due_tasks_are_woken_although_the_engines_cannot_be_read(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails() -> EngineRecords:
        raise error

    served.submit()
    assert served.queue.receive(0)
    served.clock.pass_s(120)
    monkeypatch.setattr(served.store, "engines", fails)

    assert served.service.sweep() == 1


def test_however_often_an_engine_comes_and_goes_a_task_has_few_messages(served: Served) -> None:
    """Each wake-up is an extra message. If the task has to wait again, the older one is dropped without a claim."""
    (ref,) = wait(served)
    for _ in range(20):
        served.service.switch_engine("only", ON)
        served.service.wake_waiting()
        served.service.switch_engine("only", OFF)
        served.work()
        served.clock.pass_s(1)

    assert served.get(ref).task.fence == 1
    served.clock.pass_s(60)
    served.work()
    assert served.queue.depth() == 1
    assert served.get(ref).task.fence == 2
