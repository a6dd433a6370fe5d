"""Engines are switched while the server runs: at once in this process, within 5 s in others."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from llm_server.orchestration.dispatch.fleet import EngineNow
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.state import EngineSwitch
from llm_server.orchestration.domain.errors import EngineNotFound, EngineUnavailable, InvalidInput, StorageUnavailable
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.scripted_engine import (
    WAIT_S,
    Answer,
    Balanced,
    Clock,
    ScriptedEngine,
    WatchedStore,
    a_catalog,
    an_engine,
    call_terms,
)
from support.scripted_service import Served

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
NAMED = "only"


def only(**configured: bool) -> Catalog:
    return a_catalog({NAMED: an_engine(**configured)})


def status(served: Served) -> object:
    return served.service.metrics()["llm_status"]


# What a switch does


@pytest.mark.parametrize(
    ("configured", "change", "shown"),
    [
        ({}, {"toggle": False}, (False, False, "disabled")),
        ({}, {"locked": True}, (True, True, "locked")),
        ({"toggle": False}, {"toggle": True}, (True, False, "online")),
        ({"locked": True}, {"toggle": True}, (True, True, "locked")),
        ({"locked": True}, {"locked": False}, (True, False, "online")),
        ({"toggle": False, "locked": True}, {"toggle": True, "locked": False}, (True, False, "online")),
    ],
)
def test_a_switch_goes_over_the_configuration(
    served: Served, configured: dict[str, bool], change: dict[str, bool], shown: tuple[bool, bool, str]
) -> None:
    """A locked engine that is switched on stays locked."""
    service = served.use(only(**configured))

    now = service.switch_engine(NAMED, change)  # type: ignore[arg-type]

    assert (now.spec.toggle, now.spec.locked, now.status) == shown
    assert service.engines() == {NAMED: now}
    assert service.engine_specs() == {NAMED: now.spec}
    assert status(served) == {NAMED: shown[2]}


def test_none_goes_back_to_the_configuration_even_a_later_one(served: Served) -> None:
    """A switch overrides later configurations too, until it is reset."""
    served.use(only()).switch_engine(NAMED, {"toggle": True, "locked": False})
    service = served.use(only(toggle=False, locked=True))
    assert status(served) == {NAMED: "online"}

    assert service.switch_engine(NAMED, {"locked": None}).status == "locked"
    assert service.switch_engine(NAMED, {"toggle": None}).spec == an_engine(toggle=False, locked=True)


def test_an_engine_that_does_not_serve_can_be_switched_and_is_not_listed(served: Served) -> None:
    """The embedded engine serves only where no other is configured, but a task may name it."""
    service = served.use(a_catalog({NAMED: an_engine(), "embedded": an_engine(kind="embedded")}))

    now = service.switch_engine("embedded", {"toggle": False})

    assert (now.spec.toggle, now.status) == (False, "disabled")
    assert list(service.engines()) == [NAMED]
    assert status(served) == {NAMED: "online"}


def test_a_switch_survives_a_restart(served: Served) -> None:
    served.service.switch_engine(NAMED, {"locked": True})

    with closing(SqliteStore(Database(served.path))) as reopened:
        assert reopened.engines().switches == {NAMED: EngineSwitch(locked=True, changed_ms=served.clock.now_ms)}
    served.use(only())
    assert status(served) == {NAMED: "locked"}


def test_an_engine_that_gets_well_stays_switched(balanced: Balanced, watched: WatchedStore, clock: Clock) -> None:
    """A success replaces the engine's health, but not its switches."""
    balancer = balanced(only=(an_engine(toggle=False), ScriptedEngine(EngineUnavailable("Busy."), "Back.")))
    balancer.fleet.switch(NAMED, {"toggle": True})
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    assert balancer.call(CALL, call_terms()).completion is not None
    clock.pass_s(5)
    assert watched.engines().state(NAMED).failures == 0
    assert balancer.candidates("fast", ANY_ENGINE) == [NAMED]


def test_a_switch_is_logged_with_what_holds_now(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        served.service.switch_engine(NAMED, {"locked": True})

    (record,) = [record for record in caplog.records if record.message == "engine switched"]
    fields = vars(record)
    assert (fields["engine"], fields["toggle"], fields["locked"]) == (NAMED, True, True)


def test_an_unknown_engine_and_an_empty_change_write_nothing(served: Served) -> None:
    with pytest.raises(EngineNotFound, match=r"Unknown engine 'gpt'; known are only\."):
        served.service.switch_engine("gpt", {"toggle": False})
    with pytest.raises(InvalidInput, match="toggle, locked or both"):
        served.service.switch_engine(NAMED, {})

    assert served.store.engines().switches == {}


def test_a_switch_that_cannot_be_stored_is_no_switch(balanced: Balanced, watched: WatchedStore) -> None:
    """The operator gets an error; a lock in one process alone would not protect from the others."""
    balancer = balanced(only=(an_engine(), ScriptedEngine()))
    watched.down = True

    with pytest.raises(StorageUnavailable):
        balancer.fleet.switch(NAMED, {"locked": True})
    watched.down = False
    assert balancer.candidates("fast", ANY_ENGINE) == [NAMED]


# Every process obeys


def test_another_process_obeys_within_5_s(served: Served) -> None:
    """Both processes had read the engines before, and read them no more often because of the switch."""
    first, second = served.service, served.use(only())
    for service in (first, second):
        assert service.quote("local", NewTask(prompt="Why?", engine=NAMED)).decision.engine == NAMED
    reads = served.store.reads

    first.switch_engine(NAMED, {"toggle": False})

    with pytest.raises(InvalidInput, match="Engine only is switched off"):
        first.quote("local", NewTask(prompt="Why?", engine=NAMED))
    served.clock.pass_s(5)
    assert second.quote("local", NewTask(prompt="Why?")).decision.engine is None
    with pytest.raises(InvalidInput, match="Engine only is switched off"):
        second.submit("local", NewTask(prompt="Why?", engine=NAMED))
    assert served.store.reads == reads + 1
    first.switch_engine(NAMED, {"toggle": None})
    served.clock.pass_s(5)
    assert second.quote("local", NewTask(prompt="Why?", engine=NAMED)).decision.engine == NAMED


def test_another_process_obeys_also_when_its_clock_is_set_back(served: Served) -> None:
    first, second = served.service, served.use(only())
    assert second.quote("local", NewTask(prompt="Why?", engine=NAMED)).decision.engine == NAMED
    first.switch_engine(NAMED, {"toggle": False})
    served.clock.pass_s(-3_600)

    assert second.quote("local", NewTask(prompt="Why?")).decision.engine is None


def test_without_the_store_what_was_switched_goes_on_to_hold(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    balancer = balanced(only=(an_engine(), ScriptedEngine()))
    balancer.fleet.switch(NAMED, {"locked": True})
    assert balancer.candidates("fast", ANY_ENGINE) == []
    watched.down = True
    clock.pass_s(60)

    assert balancer.candidates("fast", ANY_ENGINE) == []


# Tasks meanwhile


def test_a_task_waits_for_the_engine_it_named_and_goes_on_by_itself(served: Served) -> None:
    """The engine was switched off after the task was accepted; within a minute of being on again, it answers."""
    ref = served.submit(engine=NAMED)
    served.service.switch_engine(NAMED, {"toggle": False})
    served.work()
    waiting = served.get(ref).task

    served.service.switch_engine(NAMED, {"toggle": True})
    served.clock.pass_s(60)
    served.work()

    assert (waiting.status, waiting.waiting_for, waiting.deliveries) == (Status.QUEUED, NAMED, 0)
    assert served.get(ref).result == "Hello."


def test_a_task_that_named_none_waits_while_all_are_off(served: Served) -> None:
    served.service.switch_engine(NAMED, {"locked": True})
    ref = served.submit()
    served.work()
    waiting = served.get(ref).task

    served.service.switch_engine(NAMED, {"locked": False})
    served.clock.pass_s(60)
    served.work()

    assert waiting.waiting_for == "an engine that is switched on and has credentials"
    assert (len(served.engine.calls), served.get(ref).result) == (1, "Hello.")


def test_the_places_are_those_of_the_engines_that_tasks_are_sent_to(balanced: Balanced, clock: Clock) -> None:
    """A switch counts from then on, a rest does not: it is over soon."""
    specs = {
        "first": an_engine(max_concurrency=200),
        "off": an_engine(max_concurrency=30, toggle=False),
        "keyless": an_engine(max_concurrency=4, model="keyless"),
        "embedded": an_engine(max_concurrency=64, kind="embedded"),
    }
    busy = ScriptedEngine(EngineUnavailable("Busy."))
    balancer = balanced("keyless", **{name: (spec, busy) for name, spec in specs.items()})
    balancer.call(CALL, call_terms())

    assert balancer.fleet.free(ANY_ENGINE) == []
    assert balancer.fleet.places() == {"first": 200}
    balancer.fleet.switch("off", {"toggle": True})
    assert balancer.fleet.places() == {"first": 200, "off": 30}


def test_the_embedded_engine_alone_has_no_places_to_offer(balanced: Balanced) -> None:
    """It only computes, so more calls at a time do not make it faster."""
    balancer = balanced(embedded=(an_engine(kind="embedded"), ScriptedEngine()))

    assert balancer.fleet.free(ANY_ENGINE) == ["embedded"]
    assert balancer.fleet.places() == {}


def test_a_call_that_runs_ends_as_it_would_have(served: Served) -> None:
    switched = list[EngineNow]()

    def locking(call: EngineCall) -> Answer:
        switched.append(served.service.switch_engine(NAMED, {"locked": True}))
        return "Hello."

    served.engine = ScriptedEngine(locking)
    served.use(only())
    ref = served.submit()
    served.work()

    assert [engine.status for engine in switched] == ["locked"]
    assert served.get(ref).result == "Hello."


def test_a_call_that_waited_for_its_place_does_not_begin_at_a_locked_engine(balanced: Balanced) -> None:
    """The engine was chosen before it was locked, but is not asked after that."""
    begun, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        leave.wait(WAIT_S)
        balancer.fleet.switch(NAMED, {"locked": True})
        return "Hello."

    engine = ScriptedEngine(slow)
    balancer = balanced(only=(an_engine(max_concurrency=1), engine))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(balancer.call, CALL, call_terms())
        assert begun.wait(WAIT_S)
        second = pool.submit(balancer.call, CALL, call_terms())
        threading.Event().wait(0.1)  # long enough to have chosen it
        leave.set()

    assert first.result().completion is not None
    assert (second.result().outage, second.result().attempts, len(engine.calls)) == (True, (), 1)
