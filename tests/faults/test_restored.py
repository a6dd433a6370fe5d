"""The table is restored from the middle of a run, while messages and workers continue."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Killed, Kind
from faults.ledger import Ledger
from faults.points import COMMIT, Point
from faults.processes import Process
from faults.strikes import IN_TIME_S
from faults.substrates import again
from faults.world import SWEEP_EVERY_S, World
from llm_server.orchestration.domain.errors import StorageUnavailable

KNOWN, UNKNOWN = "Say 0.", "Say 2."
"""Prompts of a task that is in the copy and waits, and of one that came later."""
KNOWN_TASKS = 5
MAX_DELIVERIES = 4
"""The most deliveries of a task after the table was restored, so that no task circles without end."""


def in_the_middle(world: World) -> object:
    """Make a table with a done task, one whose worker died in its engine call, a running plan and two queued."""
    world.post("Say done.", mode="Chat")
    world.deliver()
    world.post("Say dead.", mode="Chat")
    world.deliver(world.process("dying", {1: Kind.KILLED_BEFORE}, of="engine."))
    world.post("Build it.", mode="Plan", profile="Developer")
    world.deliver(world.process("planner", {4: Kind.KILLED_AFTER}, of="engine."))
    for n in range(2):
        world.post(f"Say {n}.", mode="Chat")
    stored = [world.store.peek(ref).status.value for ref in world.acknowledged]
    assert stored == ["Completed", "Processing", "Planned", "Queued", "Queued"]
    return world.substrate.copy()


def gone_on(world: World) -> None:
    """Do work that the restored table has forgotten, and post tasks whose messages are still in the queue."""
    world.settle(within_s=IN_TIME_S)
    world.pass_s(SWEEP_EVERY_S)
    for n in range(2, 4):
        world.post(f"Say {n}.", mode="Chat")


def worker_calls(worlds: Worlds) -> list[Point]:
    world = worlds()
    world.post("Say hello.", mode="Chat")
    worked_on(world, "Say hello.", worker := world.process("worker"))
    return worker.caller.points


@pytest.mark.parametrize("kind", [pytest.param(Kind.KILLED_BEFORE, marks=pytest.mark.attack), Kind.KILLED_AFTER])
def test_a_task_that_is_worked_on_is_done_again(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The restore comes at each call of a worker in turn; its later writes go to the old table."""
    found, rounds = list[str](), len(worker_calls(worlds))
    for number in range(1, rounds + 1):
        world = worlds()
        copy = in_the_middle(world)
        worked_on(world, KNOWN, world.process("worker", {number: kind}))
        world.restore(copy)
        found += [f"call {number}: {alarm}" for alarm in settled(world)]
    ledger.enter(f"table put back under a worker, {kind}", worlds().substrate.name, rounds, found)


@pytest.mark.parametrize("kind", [Kind.DELAYED, pytest.param(Kind.LATE, marks=pytest.mark.attack)])
def test_what_the_table_does_not_know_any_more_is_left_alone(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The restore comes before or after each call of a worker, which then continues with what it has read.

    No restore can come while a command of SQLite's writer runs.
    """
    found, points = list[str](), worker_calls(worlds)
    rounds = [point.number for point in points if not point.name.endswith(COMMIT) and not point.in_command]
    for number in rounds:
        world = worlds()
        copy = in_the_middle(world)
        gone_on(world)
        world.during_hang = partial(world.restore, copy)
        worked_on(world, UNKNOWN, world.process("worker", {number: kind}))
        found += [f"call {number}: {alarm}" for alarm in settled(world)]
    when = "before" if kind is Kind.DELAYED else "after"
    ledger.enter(f"table put back {when} a call of a lost task", worlds().substrate.name, len(rounds), found)


def settled(world: World) -> list[str]:
    """Return what is wrong once all tasks are final again, and tasks that never end."""
    world.deliveries = 0
    world.settle(within_s=IN_TIME_S)
    found = alarms(world)
    if len(world.final) != KNOWN_TASKS:
        found.append(f"{len(world.final)} of {KNOWN_TASKS} tasks are final")
    if world.deliveries > MAX_DELIVERIES * (KNOWN_TASKS + 2):
        found.append(f"{world.deliveries} deliveries")
    if not any(caller.met for caller in world.callers if caller.name == "worker"):
        found.append("the call was not reached")
    return found


def worked_on(world: World, prompt: str, by: Process) -> None:
    """Let one worker take the message of one task."""
    (ref,) = [ref for ref, said in world.acknowledged.items() if said == prompt]
    with suppress(StorageUnavailable, Killed):
        world.work([again(ref)], by)


def test_a_table_that_is_put_back_twice_ends_the_same(worlds: Worlds, ledger: Ledger) -> None:
    """No worker runs during a restore; all work that is missing in the copy is done again."""
    world = worlds()
    copy = in_the_middle(world)
    for _ in range(2):
        gone_on(world)
        world.restore(copy)
    world.deliveries = 0
    world.settle(within_s=IN_TIME_S)

    note = f"{len(world.refs())} tasks final after {world.final_after_s:.0f} s and {world.deliveries} deliveries"
    ledger.enter("table put back twice", world.substrate.name, 2, alarms(world), note)
    assert len(world.refs()) == len(world.final) == KNOWN_TASKS
