"""Late workers: one that continues after its lease, and one whose clock is wrong."""

from __future__ import annotations

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.points import COMMIT
from faults.processes import Process
from faults.strikes import IN_TIME_S
from faults.substrates import again
from faults.world import World


def points_of_a_worker(worlds: Worlds) -> list[str]:
    """Return a worker's calls for a Chat task, in order."""
    world = worlds()
    world.post("Say hello.", mode="Chat")
    world.deliver()
    return [point.name for caller in world.callers if caller.name == "worker" for point in caller.points]


def test_the_save_of_a_worker_that_wakes_after_its_lease_is_refused(worlds: Worlds, ledger: Ledger) -> None:
    """Its engine answers when another worker has finished the task."""
    calls = points_of_a_worker(worlds)
    world = worlds()
    world.post("Say hello.", mode="Chat")
    zombie = world.process("zombie", {calls.index("engine.complete") + 1: Kind.DELAYED})
    world.deliver(zombie)
    ((_, before),) = world.final.items()
    world.settle(within_s=IN_TIME_S)
    (ref,) = world.acknowledged
    after = world.store.get(ref)

    ledger.enter("zombie", world.substrate.name, 1, alarms(world))
    woken = [point.name for point in zombie.caller.points[calls.index("engine.complete") + 1 :]]
    assert [name for name in calls if not name.endswith(COMMIT)][-1] in woken, "it tried to save"
    assert (after.task, after.task.fence, after.task.answer_fence) == (before.task, 2, 2)


@pytest.mark.parametrize("wrong_s", [60, -60])
def test_a_worker_whose_clock_is_a_minute_wrong_has_no_double_effect(
    worlds: Worlds, wrong_s: int, ledger: Ledger
) -> None:
    """With any fault, workers with the right clock continue; a lease may seem a minute longer."""
    calls, found = points_of_a_worker(worlds), []
    for number, name in enumerate(calls, 1):
        for kind in (Kind.ERROR, Kind.LOST, Kind.KILLED_AFTER, Kind.DELAYED):
            world = worlds()
            world.post("Say hello.", mode="Chat")
            world.deliver(a_wrong_worker(world, wrong_s, {number: kind}))
            world.settle(within_s=IN_TIME_S + 60)
            found += [f"{kind} at {name}: {alarm}" for alarm in alarms(world)]

    ledger.enter(f"clock {wrong_s:+} s on one worker", world.substrate.name, 4 * len(calls), found)


@pytest.mark.parametrize("wrong_s", [60, -60])
def test_a_worker_whose_clock_is_a_minute_wrong_takes_over_rightly(
    worlds: Worlds, wrong_s: int, ledger: Ledger
) -> None:
    """It follows a worker that was killed at each point, and may take the lease for over a minute too early."""
    calls, found = points_of_a_worker(worlds), []
    for number, name in enumerate(calls, 1):
        world = worlds()
        world.post("Say hello.", mode="Chat")
        world.deliver(world.process("worker", {number: Kind.KILLED_AFTER}))
        world.sweeps = False
        world.clock.pass_s(world.substrate.lease_s - 30)
        for ref in world.refs():
            world.work([again(ref)], a_wrong_worker(world, wrong_s))
        world.sweeps = True
        world.settle(within_s=IN_TIME_S + 60)
        found += [f"killed after {name}: {alarm}" for alarm in alarms(world)]

    ledger.enter(f"successor's clock {wrong_s:+} s", world.substrate.name, len(calls), found)


def a_wrong_worker(world: World, wrong_s: int, faults: dict[int, Kind] | None = None) -> Process:
    world.skew_s = abs(wrong_s)
    return world.process("wrong", faults, clock=lambda: world.clock() + wrong_s * 1000)
