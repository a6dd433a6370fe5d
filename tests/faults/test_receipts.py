"""Every call that an engine had is on a receipt, whenever its worker died (ADR 31)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, Faults, quickly, strike
from faults.world import World, one_engine
from llm_server.orchestration.domain.receipt import Attempt, usd
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from support.scripted_engine import a_catalog, an_engine

KILLS = 15
CLAIMS_S = 3_000
PARALLEL = {"one": "", "two": "", "three": "", "last": "one two three"}
"""A plan of three parallel steps and one after them."""
KILLED = (Kind.KILLED_BEFORE, Kind.KILLED_AFTER)


def attempts_of(world: World) -> list[Attempt]:
    return [attempt for ref in world.refs() for attempt in world.store.get(ref).attempts]


def missing(world: World) -> int:
    """Return how many calls the engine had that are on no receipt."""
    return len(world.engine.calls) - len(attempts_of(world))


def killed_again_and_again(world: World, post: Callable[[int], object], last: int) -> None:
    """Post a task in each round. Its worker dies at one of its first `last` calls; then the lease ends."""
    chance = random.Random(last)
    for number in range(KILLS):
        post(number)
        kills = {chance.randint(1, last): chance.choice(KILLED)}
        world.deliver(world.process("worker", kills))
        world.clock.pass_s(world.substrate.lease_s + 1)
        world.sweep()
    world.settle(within_s=CLAIMS_S)


def test_every_call_of_a_chat_is_on_a_receipt_through_15_kills(worlds: Worlds, ledger: Ledger) -> None:
    world = worlds()
    killed_again_and_again(world, lambda n: world.post(f"Say {n}.", mode="Chat"), last=9)

    attempts = attempts_of(world)
    lost = sum(attempt.is_lost for attempt in attempts)
    note = f"{len(world.engine.calls)} calls made, {len(attempts)} on receipts, {lost} of them lost"
    ledger.enter(f"calls on receipts, Chat, {KILLS} kills", world.substrate.name, KILLS, alarms(world), note)
    assert len(world.engine.calls) > KILLS, "calls were lost"
    assert missing(world) <= 0
    assert lost > 0


@pytest.mark.parametrize("substrate", ["sqlite", pytest.param("moto", marks=pytest.mark.attack)])
def test_every_call_of_a_plan_is_on_a_receipt_through_15_kills(
    request: pytest.FixtureRequest, substrate: str, ledger: Ledger
) -> None:
    """With parallel steps: each of those that run when the worker dies is lost on its own."""
    worlds: Worlds = request.getfixturevalue(f"{substrate}_worlds")
    world = worlds()
    world.catalog, world.engine.steps = one_engine(parallel_steps=4), PARALLEL
    killed_again_and_again(world, lambda n: world.post(f"Build {n}.", mode="Plan", profile="Developer"), last=25)

    attempts = attempts_of(world)
    lost = Counter(attempt.purpose.partition(" ")[0] for attempt in attempts if attempt.is_lost)
    note = f"{len(world.engine.calls)} calls made, {len(attempts)} on receipts, lost: {dict(lost)}"
    ledger.enter(f"calls on receipts, Plan, {KILLS} kills", world.substrate.name, KILLS, alarms(world), note)
    assert {task.status for task in map(world.store.peek, world.refs())} == {Status.COMPLETED}
    assert missing(world) <= 0
    assert lost["step"] > 0


def parallel_plan(world: World, faults: Faults) -> None:
    """Post a plan of three parallel steps and one after them."""
    world.catalog, world.engine.steps = one_engine(parallel_steps=4), PARALLEL
    world.post("Build it.", mode="Plan", profile="Developer")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    lost = [attempt for attempt in attempts_of(world) if attempt.is_lost]
    if not faults and (lost or missing(world)):
        world.noted.append(f"nothing failed: {len(lost)} calls are lost, {missing(world)} are missing")


@pytest.mark.parametrize("kind", quickly(*KILLED))
def test_parallel_steps_lose_no_call(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The worker dies at each of its calls; the calls of parallel steps are in any order."""
    calm = worlds()
    parallel_plan(calm, {})
    numbers = [point.number for caller in calm.callers if caller.name == "worker" for point in caller.points]
    found = [f"without a fault: {alarm}" for alarm in alarms(calm)]
    for number in numbers:
        world = worlds()
        parallel_plan(world, {"worker": {number: kind}})
        found += [f"call {number}: {alarm}" for alarm in alarms(world)]
    ledger.enter(f"parallel plan, {kind}", calm.substrate.name, len(numbers), found)
    assert numbers


def failover(world: World, faults: Faults) -> None:
    """Post a question whose first engine fails, so that the second one is asked."""
    world.catalog = a_catalog({"first": an_engine(), "second": an_engine()}, parallel_steps=1)
    world.engine.fails = 1
    world.post("Say hello.", mode="Chat")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S + 300)  # an engine that failed rests
    if world.engine.seen != len(attempts_of(world)) and not faults:
        world.noted.append(f"{world.engine.seen} calls, {len(attempts_of(world))} attempts")
    if world.engine.seen > len(attempts_of(world)):
        world.noted.append(f"{world.engine.seen} calls, and {len(attempts_of(world))} attempts on the receipt")


@pytest.mark.parametrize("kind", quickly(*KILLED))
def test_a_failover_loses_no_call(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The worker dies before and after the announcing save, and before and after the second call."""
    strike(worlds, failover, kind, ledger, struck=("worker",))


def test_what_is_known_of_a_failed_call_is_kept_when_the_failover_is_lost(worlds: Worlds) -> None:
    """The save that announces the second call stores the first one with its own failure."""
    world = worlds()
    world.catalog = a_catalog({"first": an_engine(), "second": an_engine()}, parallel_steps=1)
    world.engine.fails = 1
    world.post("Say hello.", mode="Chat")
    world.deliver(world.process("worker", {2: Kind.KILLED_AFTER}, of="engine."))
    world.settle(within_s=IN_TIME_S + 300)
    first, second, *others = attempts_of(world)

    assert (first.engine, first.failure, first.withheld_microusd) == ("first", "busy", 0)
    assert (second.engine, second.failure, second.failover_from) == ("second", "lost", "first")
    assert second.withheld_microusd > 0
    assert [attempt.answered for attempt in others] == [True]


def killed_in_a_call(world: World, limits: Mapping[str, float] | None = None) -> TaskRef:
    """Post a question whose worker dies after the engine has answered; return the task."""
    world.post("Say hello.", mode="Chat", limits=limits or {})
    world.deliver(world.process("worker", {1: Kind.KILLED_AFTER}, of="engine."))
    (ref,) = world.refs()
    return ref


def test_a_lost_call_is_shown_only_when_its_worker_is_dead(worlds: Worlds) -> None:
    """While the lease lasts the call may still be answered."""
    world = worlds()
    shown = list[Snapshot]()
    world.engine.before = lambda call: shown.append(world.store.get(world.refs()[0]))
    ref = killed_in_a_call(world)
    before = world.store.get(ref)
    world.settle(within_s=IN_TIME_S)
    lost, answered = world.store.get(ref).attempts

    assert [snapshot.attempts for snapshot in (shown[0], before)] == [[], []]
    assert [attempt.purpose for attempt in before.task.pending] == ["answer"]
    assert (lost.failure, lost.engine, lost.cost_microusd, lost.withheld_microusd > 0) == ("lost", "only", 0, True)
    assert "worker died" in str(lost.error)
    assert answered.answered


def test_money_that_a_lost_call_withholds_is_not_spent_again(worlds: Worlds, ledger: Ledger) -> None:
    """The first call takes all that the task may cost, so the task fails and says what is withheld."""
    world = worlds()
    world.engine.is_costly = True
    ref = killed_in_a_call(world, limits={"max_cost_usd": 0.002})
    world.settle(within_s=IN_TIME_S)
    snapshot = world.store.get(ref)
    (lost,) = snapshot.attempts

    assert lost.is_lost
    assert snapshot.task.status is Status.FAILED
    assert snapshot.task.error is not None
    assert "max_cost_usd" in snapshot.task.error
    assert f"USD {usd(lost.withheld_microusd)} are withheld for calls whose worker died" in snapshot.task.error
    assert len(world.engine.calls) == 1
    ledger.enter("money of a lost call", world.substrate.name, 1, alarms(world, may_fail=lambda prompt: True))


def cancelled_by_a_caller(world: World) -> TaskRef:
    """Cancel a task during its engine call; its worker then dies of it."""
    world.engine.before = lambda call: cancel(world)
    return killed_in_a_call(world)


def cancel(world: World) -> None:
    (ref,) = world.refs()
    world.to_be_cancelled.add(ref)
    assert world.insist("POST", f"/tasks/{ref.task_id}/cancel", world.process("caller")) == 200


def test_a_cancelled_task_whose_worker_died_has_its_call_on_the_receipt(worlds: Worlds, ledger: Ledger) -> None:
    """It is booked when its message comes again after the lease; embedded, the next start sends one."""
    world = worlds()
    ref = cancelled_by_a_caller(world)
    world.engine.before = lambda call: None
    during = world.store.get(ref)
    world.settle(within_s=IN_TIME_S)
    after = world.store.get(ref)

    assert (during.task.status, during.attempts) == (Status.CANCELLED, [])
    assert [attempt.failure for attempt in after.attempts] == ["lost"]
    assert (after.task.receipt.failed_calls, after.task.pending, after.task.owner) == (1, (), "")
    ledger.enter("cancelled, then its worker died", world.substrate.name, 1, alarms(world))


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_caller_that_ends_a_dead_workers_task_books_its_call(worlds: Worlds, how: str, ledger: Ledger) -> None:
    """Cancelled or deleted after the lease, before another worker came."""
    world = worlds()
    ref = killed_in_a_call(world)
    world.clock.pass_s(world.substrate.lease_s + 1)
    if how == "cancel":
        cancel(world)
        assert [attempt.failure for attempt in world.store.get(ref).attempts] == ["lost"]
    else:
        known = world.store.get(ref)
        assert world.insist("DELETE", f"/tasks/{ref.task_id}", world.process("caller")) == 204
        world.deleted[ref] = known
        assert world.store.overview()[0].failed_calls == 1
        return
    world.settle(within_s=IN_TIME_S)
    ledger.enter(f"{how} after the worker died", world.substrate.name, 1, alarms(world))


def test_a_call_that_cannot_be_announced_is_not_made(sqlite_worlds: Worlds) -> None:
    """The store does not answer until the claim ends, so the second engine is not asked."""
    world = sqlite_worlds()
    world.catalog = a_catalog({"first": an_engine(), "second": an_engine()}, parallel_steps=1)
    world.engine.fails = 1
    world.post("Say hello.", mode="Chat")
    faults: Mapping[int, Kind] = dict.fromkeys(range(2, 200), Kind.ERROR)  # all saves but the claim
    world.deliver(world.process("worker", faults, of="store.save"))

    assert world.engine.seen == 1
