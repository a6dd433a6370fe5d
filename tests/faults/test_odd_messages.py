"""Messages that arrive late, in the wrong order, or from the dead-letter queue."""

from __future__ import annotations

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S
from faults.substrates import Aws, again
from faults.world import SWEEP_EVERY_S
from llm_server.orchestration.domain.status import Status

TASKS = 20
HOUR_S = 3600
MAX_RECEIVES = 5
"""Deliveries of a message, by the template, before it becomes a dead letter."""


@pytest.mark.parametrize("sweeps", [True, False])
def test_messages_an_hour_late_and_in_reverse_order_do_their_tasks_once(
    worlds: Worlds, sweeps: bool, ledger: Ledger
) -> None:
    """This holds whether the sweep has sent other messages in the meantime or not."""
    world = worlds()
    for n in range(TASKS):
        world.post(f"Say {n}.", mode="Chat")
    late = [again(ref) for ref in reversed(world.acknowledged)]
    world.substrate.purge()
    world.tick_s, world.sweeps = SWEEP_EVERY_S, sweeps
    world.pass_s(HOUR_S)
    waited = sum(not world.store.peek(ref).status.is_final for ref in world.refs())
    for message in late:
        world.work([message], world.process("worker"))
    world.sweeps = True
    world.settle(within_s=0)

    name = f"{TASKS} messages, late and reversed, {'with' if sweeps else 'without'} sweep"
    ledger.enter(name, world.substrate.name, 0, alarms(world), f"{len(world.engine.calls)} engine calls")
    assert (waited, len(world.engine.calls)) == (0 if sweeps else TASKS, TASKS)


def test_a_dead_letter_that_is_moved_back_changes_nothing(moto_worlds: Worlds, ledger: Ledger) -> None:
    """Five workers die of a task; the sweep gets it done while its message is in the dead-letter queue."""
    world = moto_worlds()
    world.post("Say hello.", mode="Chat")
    assert isinstance(world.substrate, Aws)
    (ref,) = world.acknowledged
    for _ in range(MAX_RECEIVES):
        world.deliver(world.process("dying", {1: Kind.KILLED_AFTER}, of="engine."))
        world.clock.pass_s(world.substrate.visibility_s + 1)
    assert (world.deliver(), world.substrate.dead(), world.store.peek(ref).fence) == (0, 1, MAX_RECEIVES)
    world.pass_s(IN_TIME_S)
    before = world.store.get(ref)
    world.note_final([ref])
    world.substrate.redrive()
    world.deliver_all()
    world.settle(within_s=0)

    note = f"{before.task.status} by the sweep after {before.task.fence} claims"
    ledger.enter("redriven dead letter", world.substrate.name, MAX_RECEIVES, alarms(world), note)
    assert (before.task.status, before.task.fence) == (Status.COMPLETED, MAX_RECEIVES + 1)
    assert world.store.get(ref) == before
