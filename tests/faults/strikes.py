"""One kind of fault at each single call of some processes, and an audit after every one."""

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
"""Lease, sweep, and a tick of the clock: how soon a task is final, whatever befell it."""
LOST_S = 121 + 60 + TICK_S
"""A sweep that moved the due time of a task of 121 s on and died leaves it to the first one after twice that age."""
SINGLE = [kind for kind in Kind if kind is not Kind.TWICE]
Faults = Mapping[str, Mapping[int, Kind]]
Scenario = Callable[[World, Faults], None]


def quickly(*kinds: Kind) -> list[Any]:
    """Every kind; those not named are for `make attack` alone: on the emulator a scenario takes long."""
    return [pytest.param(kind, marks=() if kind in kinds else pytest.mark.attack) for kind in SINGLE]


def strike(
    worlds: Worlds,
    scenario: Scenario,
    kind: Kind,
    ledger: Ledger,
    *,
    struck: Collection[str],
    only: Collection[str] = (),
) -> None:
    """Attack each point of the processes `struck`, or those of calls named in `only`.

    One engine call is wasted at most: the one whose answer was not stored yet.
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
        if len(world.engine.calls) > calls + 1:
            found.append(f"{point}: {len(world.engine.calls)} engine calls instead of {calls}")
    name = scenario.__name__.replace("_", " ")
    ledger.enter(f"{name}, {kind}", where, len(tried), found)
    assert tried, "there is something to strike"
