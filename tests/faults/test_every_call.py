"""Each kind of fault at each single call of POST, worker and sweep, with an audit after each of them."""

from __future__ import annotations

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import AWS, PROMISED, Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, LOST_S, SINGLE, Faults, Scenario, quickly, strike
from faults.world import World

STRUCK = {"chat": ("post", "worker"), "plan": ("post", "worker"), "sweep": ("sweeper",)}
CALLS = {
    "SQLite": {"chat": 14, "plan": 38, "sweep": 10},
    "moto": {"chat": 10, "plan": 26, "sweep": 18},
}
"""The exact numbers of calls: more would cost more than planned, fewer would mean that some are not attacked."""
MIN_POINTS = {"chat": 60, "plan": 150, "sweep": 0}
"""Calls times kinds of fault."""


def chat(world: World, faults: Faults) -> None:
    """Post a question that one role answers."""
    world.post("Say hello.", world.process("post", faults.get("post")), mode="Chat")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


def plan(world: World, faults: Faults) -> None:
    """Post a plan of four steps, one of which is reviewed and repaired."""
    world.post("Build it.", world.process("post", faults.get("post")), mode="Plan", profile="Developer")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


def sweep(world: World, faults: Faults) -> None:
    """Post a task whose message is lost, and run the first sweep that finds it due."""
    world.post("Say hello.", mode="Chat")
    world.substrate.purge()
    world.clock.pass_s(world.substrate.sweep_s + 1)
    world.sweep(world.process("sweeper", faults.get("sweeper")))
    world.settle(within_s=LOST_S)


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("scenario", [chat, sweep])
def test_no_single_fault_loses_doubles_or_miscounts(
    worlds: Worlds, scenario: Scenario, kind: Kind, ledger: Ledger
) -> None:
    strike(worlds, scenario, kind, ledger, struck=STRUCK[scenario.__name__])


@pytest.mark.parametrize("kind", SINGLE)
def test_no_single_fault_spoils_a_plan(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, plan, kind, ledger, struck=STRUCK["plan"])


@pytest.mark.parametrize("kind", quickly(Kind.KILLED_AFTER))
def test_no_single_fault_spoils_a_plan_on_aws(moto_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(moto_worlds, plan, kind, ledger, struck=STRUCK["plan"])


@pytest.mark.parametrize("scenario", [chat, plan, sweep])
def test_a_call_that_the_sdk_sends_twice_counts_once(moto_worlds: Worlds, scenario: Scenario, ledger: Ledger) -> None:
    strike(moto_worlds, scenario, Kind.TWICE, ledger, struck=STRUCK[scenario.__name__], only=AWS.repeats)


@pytest.mark.parametrize("scenario", [chat, plan, sweep])
def test_without_a_fault_everything_is_called_once(worlds: Worlds, scenario: Scenario) -> None:
    """The other tests compare with this run, which also counts the calls to attack."""
    world, name = worlds(), scenario.__name__
    scenario(world, {})
    struck = [point for caller in world.callers if caller.name in STRUCK[name] for point in caller.points]

    assert alarms(world) == []
    assert len(struck) == CALLS[world.substrate.name][name], [str(point) for point in struck]
    assert len(struck) * len(PROMISED) >= MIN_POINTS[name]
    assert [world.engine.calls.count(call) for call in world.engine.calls] == [1] * len(world.engine.calls)
    assert world.sends == (2 if scenario is sweep else 1), "the sweep replaces one message"
