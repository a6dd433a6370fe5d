"""Each kind of fault at each single call of POST, worker and sweep; an audit after every one of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import AWS, Kind
from faults.ledger import Ledger
from faults.world import TICK_S, World

IN_TIME_S = 210 + 60 + TICK_S
"""Lease, sweep, and a tick of the clock: how soon a task is final, whatever befell it."""
SWEPT_S = 480
"""A sweep that moves a task's due time on and dies leaves it to another one, at most twice the task's age later."""
SINGLE = [kind for kind in Kind if kind is not Kind.TWICE]
WORST = (Kind.LOST, Kind.KILLED_AFTER, Kind.DELAYED)
"""A plan takes long on the emulator; the quick part keeps to the faults that leave something behind."""
Faults = Mapping[str, Mapping[int, Kind]]
Scenario = Callable[[World, Faults], None]


def chat(world: World, faults: Faults) -> None:
    """A question, answered by one role."""
    world.post("Say hello.", world.process("post", faults.get("post")), mode="Chat")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


def plan(world: World, faults: Faults) -> None:
    """A plan of three steps, one of them reviewed and repaired."""
    world.post("Build it.", world.process("post", faults.get("post")), mode="Plan", profile="Developer")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


def sweep(world: World, faults: Faults) -> None:
    """A task whose message was lost, and the first sweep that finds it due."""
    world.post("Say hello.", mode="Chat")
    world.substrate.purge()
    world.clock.pass_s(world.substrate.sweep_s + 1)
    world.sweep(world.process("sweeper", faults.get("sweeper")))
    world.settle(within_s=SWEPT_S)


def strike(worlds: Worlds, scenario: Scenario, kind: Kind, ledger: Ledger, *, only: Collection[str] = ()) -> None:
    """Attack each point of a scenario, or those of calls named in `only`; one engine call is wasted at most.

    That one is the call whose answer was not stored yet.
    """
    calm = worlds()
    scenario(calm, {})
    struck = ("sweeper",) if scenario is sweep else ("post", "worker")
    points = [point for caller in calm.callers if caller.name in struck for point in caller.points]
    tried = [point for point in points if not only or point.name in only]
    found = [f"without a fault: {alarm}" for alarm in alarms(calm)]
    where, calls = calm.substrate.name, len(calm.engine.calls)
    for point in tried:
        world = worlds()
        scenario(world, {point.caller: {point.number: kind}})
        found += [f"{point}: {alarm}" for alarm in alarms(world)]
        if not any(caller.met for caller in world.callers):
            found.append(f"{point} was not reached")
        if len(world.engine.calls) > calls + 1:
            found.append(f"{point}: {len(world.engine.calls)} engine calls instead of {calls}")
    ledger.enter(f"{scenario.__name__}, {kind}", where, len(tried), found)


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("scenario", [chat, sweep])
def test_no_single_fault_loses_doubles_or_miscounts(
    worlds: Worlds, scenario: Scenario, kind: Kind, ledger: Ledger
) -> None:
    strike(worlds, scenario, kind, ledger)


@pytest.mark.parametrize("kind", SINGLE)
def test_no_single_fault_spoils_a_plan(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, plan, kind, ledger)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in WORST else pytest.mark.attack) for kind in SINGLE]
)
def test_no_single_fault_spoils_a_plan_on_aws(moto_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(moto_worlds, plan, kind, ledger)


@pytest.mark.parametrize("scenario", [chat, plan, sweep])
def test_a_call_that_the_sdk_sends_twice_counts_once(moto_worlds: Worlds, scenario: Scenario, ledger: Ledger) -> None:
    strike(moto_worlds, scenario, Kind.TWICE, ledger, only=AWS.repeats)


@pytest.mark.parametrize(("scenario", "least"), [(chat, 9), (plan, 23), (sweep, 6)])
def test_without_a_fault_everything_is_called_once(worlds: Worlds, scenario: Scenario, least: int) -> None:
    """The yardstick of the other tests; and so many calls are there to be struck."""
    world = worlds()
    scenario(world, {})
    points = [point for caller in world.callers[:3] for point in caller.points]

    assert alarms(world) == []
    assert len(points) >= least
    assert [world.engine.calls.count(call) for call in world.engine.calls] == [1] * len(world.engine.calls)
    assert world.sends == (2 if scenario is sweep else 1), "the sweep replaces one message"
