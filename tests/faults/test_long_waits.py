"""Long times: a sweep that does not run, a long queue, a slow answer, engines that are unreachable."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.world import SWEEP_EVERY_S, TICK_S, World
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable
from support.scripted_engine import a_catalog, an_engine

MAX_SENDS = 1.05
HOUR_S = 3600


def posted(world: World, tasks: int) -> World:
    for n in range(tasks):
        assert world.post(f"Say {n}.", mode="Chat") == 202
    return world


def test_two_sweeps_at_once_wake_each_task_once(worlds: Worlds, ledger: Ledger) -> None:
    world = posted(worlds(), 20)
    world.substrate.purge()
    world.clock.pass_s(world.substrate.sweep_s + 1)
    together = threading.Barrier(2)

    def sweep(_: int) -> None:
        sweeper = world.process("sweeper")
        together.wait()
        world.sweep(sweeper)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(sweep, range(2)))
    sent = world.sends - 20
    world.settle(within_s=SWEEP_EVERY_S)

    ledger.enter("sweep twice at once", world.substrate.name, 0, alarms(world), f"{sent} sends for 20 tasks")
    assert sent == len(world.engine.calls) == 20


def test_tasks_outlive_a_sweep_that_is_dead_for_an_hour(worlds: Worlds, ledger: Ledger) -> None:
    """Half of them lost their worker, the others their message; the first sweep after the hour finds them all."""
    world = worlds()
    for n in range(10):
        world.post(f"Say {n}.", mode="Chat")
        world.deliver(world.process("worker", {1: Kind.KILLED_BEFORE}, of="engine."), most=1)
    for n in range(10, 20):
        world.post(f"Say {n}.", mode="Chat")
    world.substrate.purge()
    world.sweeps = world.workers = False
    world.pass_s(HOUR_S)
    open_then = [ref for ref in world.refs() if not world.store.peek(ref).status.is_final]
    world.sweeps = world.workers = True
    world.settle(within_s=SWEEP_EVERY_S)

    note = f"{len(open_then)} tasks open after an hour, final {world.final_after_s:.0f} s later"
    ledger.enter("sweep dead for an hour", world.substrate.name, 20, alarms(world), note)
    assert len(open_then) == 20


def test_the_sweep_adds_nothing_to_a_long_queue(worlds: Worlds, ledger: Ledger) -> None:
    """No worker runs for an hour; the messages are still in the queue, so the sweep sends no others."""
    world = posted(worlds(), 20)
    world.workers, world.tick_s = False, SWEEP_EVERY_S
    world.pass_s(HOUR_S)
    world.workers = True
    world.settle(within_s=SWEEP_EVERY_S)

    note = f"{world.sends} sends for 20 tasks"
    ledger.enter("queue of an hour", world.substrate.name, 0, alarms(world), note)
    assert world.sends <= MAX_SENDS * 20
    assert len(world.engine.calls) == 20


def test_a_slow_answer_is_waited_for_by_one_worker(worlds: Worlds, ledger: Ledger) -> None:
    """It takes almost all of the function's time; neither queue nor sweep wakes a second worker."""
    world = worlds()
    world.engine.before = lambda call: world.pass_s(160)
    world.post("Say hello.", mode="Chat")
    world.deliver_all()
    delivered = world.deliveries
    world.settle(within_s=SWEEP_EVERY_S)

    ledger.enter("answer of 160 s", world.substrate.name, 0, alarms(world), f"{delivered} delivery")
    assert (delivered, world.sends, len(world.engine.calls)) == (1, 1, 1)


def test_tasks_are_woken_within_a_sweep_when_another_engine_is_switched_on(worlds: Worlds, ledger: Ledger) -> None:
    """Their own engine asked for 10 minutes of rest, so their messages are delayed for as long."""
    world = worlds()
    world.catalog = a_catalog({"resting": an_engine(), "spare": an_engine(toggle=False)})

    def overloaded(call: EngineCall) -> None:
        if "spare" not in switched:
            raise EngineUnavailable("The engine is overloaded.", retry_after_s=600, outage=True)

    switched = set[str]()
    world.engine.before = overloaded
    posted(world, 20)
    world.deliver_all()
    waiting = sum(world.store.peek(ref).is_waiting for ref in world.refs())
    switched.add("spare")
    world.process("operator").service.switch_engine("spare", {"toggle": True})
    sent = world.sends
    world.settle(within_s=SWEEP_EVERY_S + TICK_S)

    note = f"{waiting} tasks waited, final {world.final_after_s:.0f} s later, {world.sends - sent} sends"
    world.pass_s(600)  # now the delayed messages have come, too
    ledger.enter("engine switched on", world.substrate.name, 0, alarms(world), note)
    assert (waiting, world.sends - sent) == (20, 20)


@pytest.mark.parametrize("timeout_s", [120, 174])
def test_an_engine_that_takes_longer_than_the_window_is_asked_twice_at_most(
    worlds: Worlds, timeout_s: int, ledger: Ledger
) -> None:
    """It was asked 8 times. What it may bill is withheld from the task's limit."""
    world = worlds()
    world.catalog = a_catalog({"slow": an_engine(timeout_s=timeout_s)})
    asked = list[EngineCall]()

    def times_out(call: EngineCall) -> None:
        asked.append(call)
        world.clock.pass_s(timeout_s)
        raise EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)

    world.engine.before = times_out
    world.post("Say hello.", mode="Chat", limits={"max_cost_usd": 1})
    world.settle(within_s=4 * timeout_s)
    (ref,) = world.refs()
    snapshot = world.store.get(ref)
    withheld = [attempt.withheld_microusd > 0 for attempt in snapshot.attempts]

    note = f"{len(asked)} calls; {snapshot.task.error}"
    found = alarms(world, may_fail=lambda prompt: True)
    ledger.enter(f"engine that takes longer than {timeout_s} s", world.substrate.name, 0, found, note)
    assert withheld == [True] * len(asked)
    assert len(asked) == (1 if timeout_s == 174 else 2)


@pytest.mark.parametrize("away_s", [60, 600])
def test_tasks_outlive_engines_that_are_all_away(worlds: Worlds, away_s: int, ledger: Ledger) -> None:
    world, tried = worlds(), list[int]()
    back_ms = world.clock() + away_s * 1000

    def away(call: EngineCall) -> None:
        if world.clock() < back_ms:
            tried.append(world.clock())
            raise EngineUnavailable("The engine cannot be reached.", kind="unreachable")

    world.engine.before = away
    posted(world, 20)
    world.pass_s(away_s)
    world.settle(within_s=2 * 300)
    a_minute = max(sum(t <= u < t + 60_000 for u in tried) for t in tried)

    note = f"{len(tried)} calls in vain, at most {a_minute} in a minute; all final {world.final_after_s:.0f} s after"
    ledger.enter(f"all engines away for {away_s} s", world.substrate.name, len(tried), alarms(world), note)
    assert {world.store.peek(ref).status for ref in world.refs()} == {"Completed"}
    assert a_minute <= 5
