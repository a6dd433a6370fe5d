"""What a dead worker has reserved from a key's day is withheld, whatever becomes of its task (ADR 31)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, Faults, quickly, strike
from faults.test_budget import TOKEN, capped, overspent, use
from faults.world import World
from llm_server.orchestration.domain.task import TaskRef


def dead_in_its_call(world: World) -> TaskRef:
    """Post a question that is charged to an API key, and kill its worker after the engine has answered."""
    world.post("Say hello.", headers=TOKEN, mode="Chat")
    world.deliver(world.process("first", {1: Kind.KILLED_AFTER}, of="engine."))
    (ref,) = world.refs()
    return ref


def carry_on(world: World, _: TaskRef) -> None:
    """Let its message come again: another worker claims the task, or settles it if it is cancelled."""
    world.settle(within_s=IN_TIME_S)


def cancel(world: World, ref: TaskRef) -> None:
    world.to_be_cancelled.add(ref)
    assert world.insist("POST", f"/tasks/{ref.task_id}/cancel", world.process("caller"), TOKEN) == 200


def delete(world: World, ref: TaskRef) -> None:
    assert world.insist("DELETE", f"/tasks/{ref.task_id}", world.process("caller"), TOKEN) == 204


@pytest.mark.parametrize("ended", [carry_on, cancel, delete])
def test_what_a_dead_worker_reserved_is_withheld(worlds: Worlds, ended: Callable[[World, TaskRef], None]) -> None:
    world = capped(worlds())
    ref = dead_in_its_call(world)
    assert use(world).under_way_microusd > 0
    world.clock.pass_s(world.substrate.lease_s + 1)
    check_withheld(world, ref, ended)


@pytest.mark.parametrize("ended", [carry_on, delete])
def test_what_a_cancelled_tasks_dead_worker_reserved_is_withheld(
    worlds: Worlds, ended: Callable[[World, TaskRef], None]
) -> None:
    """The task is cancelled during the call, so its worker keeps the reservation until its lease ends."""
    world = capped(worlds())
    world.engine.before = lambda call: cancel(world, world.refs()[0])
    ref = dead_in_its_call(world)
    assert use(world).under_way_microusd > 0
    world.clock.pass_s(world.substrate.lease_s + 1)
    check_withheld(world, ref, ended)


def check_withheld(world: World, ref: TaskRef, ended: Callable[[World, TaskRef], None]) -> None:
    """End the task, and check that its dead worker's money is no longer under way: its worst case is withheld."""
    (lost,) = world.store.peek(ref).pending
    ended(world, ref)

    assert use(world).under_way_microusd == 0
    assert use(world).withheld_microusd == lost.withheld_microusd > 0
    assert overspent(world) == []


def taken_over(world: World, faults: Faults) -> None:
    """The first worker of a charged question dies in its engine call; the second one takes the task over."""
    capped(world)
    (lost,) = world.store.peek(dead_in_its_call(world)).pending
    world.clock.pass_s(world.substrate.lease_s + 1)
    world.sweep()
    world.deliver(world.process("second", faults.get("second")))
    world.settle(within_s=IN_TIME_S)
    world.noted += overspent(world)
    if use(world).withheld_microusd < lost.withheld_microusd:
        world.noted.append(f"{use(world).withheld_microusd} withheld, {lost.withheld_microusd} lost")
    if not faults and use(world).unsettled_microusd != lost.withheld_microusd:
        world.noted.append("nothing failed, and other money than that of the lost call is unsettled")


@pytest.mark.parametrize("kind", quickly(Kind.KILLED_AFTER))
def test_no_single_fault_frees_what_a_dead_worker_reserved(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The second worker is struck at each of its calls, also at that which withholds the first one's money."""
    calm = worlds()
    taken_over(calm, {})
    ours = {point.name for caller in calm.callers for point in caller.points} - {"engine.complete"}
    strike(worlds, taken_over, kind, ledger, struck=("second",), only=ours)
