"""One kind of fault at each single call of some processes, with an audit after each fault."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.world import TICK_S, World

IN_TIME_S = 210 + 60 + TICK_S
"""Lease, sweep and a tick of the clock: the time after which a task is final, after any fault."""
LOST_S = 121 + 60 + TICK_S
"""If a sweep postpones a task that is 121 s old and dies, the task waits for the first sweep at twice that age."""
SINGLE = [kind for kind in Kind if kind is not Kind.TWICE]
Faults = Mapping[str, Mapping[int, Kind]]
Scenario = Callable[[World, Faults], None]


def quickly(*kinds: Kind) -> list[Any]:
    """Return every kind of fault as a parameter; kinds that are not named here run in `make attack` alone."""
    return [pytest.param(kind, marks=() if kind in kinds else pytest.mark.attack) for kind in SINGLE]


def strike(
    worlds: Worlds,
    scenario: Scenario,
    kind: Kind,
    ledger: Ledger,
    *,
    struck: Collection[str],
    only: Collection[str] = (),
    wasted: int = 1,
) -> None:
    """Attack each point of the processes `struck`; with `only`, the points of the calls with these names.

    At most `wasted` engine calls may be made again: those whose answers were not stored yet.
    """
    calm = worlds()
    scenario(calm, {})
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
        if len(world.engine.calls) > calls + wasted:
            found.append(f"{point}: {len(world.engine.calls)} engine calls instead of {calls}")
    name = scenario.__name__.replace("_", " ")
    ledger.enter(f"{name}, {kind}", where, len(tried), found)
    assert tried, "there is something to strike"
