"""Calls that were paid for before the one in which a worker died stay on the receipt (ADR 31)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from faults.conftest import Worlds
from faults.kinds import Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, SINGLE, Faults, strike
from faults.test_receipts import attempts_of, cancel, killed_in_a_call
from faults.world import World
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.status import Mode
from support.builders import an_attempt

ALWAYS = 1_000
KILLED = [Kind.KILLED_AFTER, pytest.param(Kind.KILLED_BEFORE, marks=pytest.mark.attack)]


def plan_repaired(world: World, faults: Faults) -> None:
    """The first plan is not usable; the second one is carried out."""
    proposed(world, faults, bad_plans=1)


def answer_after_two_bad_plans(world: World, faults: Faults) -> None:
    """No plan is usable, so each worker asks for two plans and then for an answer without one."""
    proposed(world, faults, bad_plans=ALWAYS)


def result_repaired(world: World, faults: Faults) -> None:
    """The first result does not follow the caller's schema; the repaired one does."""
    world.engine.bad_results = 1
    schema = {"type": "object", "required": ["answer"]}
    world.post("Say hello.", world.process("post", faults.get("post")), mode="Chat", output_schema=schema)
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    if not faults and [a.fault is not None for a in attempts_of(world)] != [True, False]:
        world.noted.append("nothing failed, and the result was not repaired once")


def proposed(world: World, faults: Faults, bad_plans: int) -> None:
    world.engine.steps, world.engine.bad_plans = {"one": "", "last": "one"}, bad_plans
    world.post("Build it.", mode="Plan", profile="Developer")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    (task,) = [world.store.peek(ref) for ref in world.refs()]
    if not faults and task.mode is not (Mode.AGENT if bad_plans == ALWAYS else Mode.PLAN):
        world.noted.append(f"nothing failed, and the task is in mode {task.mode}")


@pytest.mark.parametrize("kind", KILLED)
def test_a_repair_of_a_plan_loses_no_call(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(worlds, plan_repaired, kind, ledger, struck=("worker",))


@pytest.mark.parametrize("kind", SINGLE)
def test_a_repair_of_a_result_loses_no_call(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The next worker begins anew, because a result that does not follow the schema is not stored."""
    strike(worlds, result_repaired, kind, ledger, struck=("worker",), wasted=2)


def test_a_worker_that_dies_between_a_result_and_its_repair_leaves_both_calls(worlds: Worlds) -> None:
    """The save that announces the repair stores the first call with its real cost, and why it was not enough."""
    world = worlds()
    result_repaired(world, {})
    usual = [attempt.cost_microusd for attempt in attempts_of(world)]
    world = worlds()
    world.engine.bad_results = 1
    world.post("Say hello.", mode="Chat", output_schema={"type": "object", "required": ["answer"]})
    world.deliver(world.process("worker", {2: Kind.KILLED_BEFORE}, of="engine."))
    world.settle(within_s=IN_TIME_S)
    first, lost, again = attempts_of(world)

    assert first.fault == "schema: the answer is not valid JSON"
    assert (first.cost_microusd, first.withheld_microusd) == (usual[0], 0)
    assert (lost.failure, lost.cost_microusd) == ("lost", 0)
    assert lost.withheld_microusd > 0
    assert (again.fault, again.failure) == (None, None)


@pytest.mark.parametrize("kind", KILLED)
def test_an_answer_after_two_bad_plans_loses_no_call(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The next worker begins anew, because plans that are not usable are not stored."""
    strike(worlds, answer_after_two_bad_plans, kind, ledger, struck=("worker",), wasted=3)


def test_what_is_known_of_bad_plans_is_kept_when_the_answer_is_lost(worlds: Worlds) -> None:
    """The save that announces the answer stores both calls for plans with their real cost."""
    world = worlds()
    answer_after_two_bad_plans(world, {})
    (usual,) = {attempt.cost_microusd for attempt in attempts_of(world) if attempt.purpose == "plan"}
    world = worlds()
    world.engine.bad_plans = ALWAYS
    world.post("Build it.", mode="Plan", profile="Developer")
    world.deliver(world.process("worker", {3: Kind.KILLED_AFTER}, of="engine."))
    world.settle(within_s=IN_TIME_S)
    first, second, lost, *_ = attempts_of(world)

    assert usual
    assert [(a.purpose, a.cost_microusd, a.withheld_microusd) for a in (first, second)] == [("plan", usual, 0)] * 2
    assert (lost.purpose, lost.failure, lost.cost_microusd) == ("answer", "lost", 0)
    assert lost.withheld_microusd > 0


def test_a_late_answer_of_an_older_version_and_a_lost_call_are_both_booked(worlds: Worlds) -> None:
    """The first worker, of a version that announced no calls, keeps its answer while the second one is at its call."""
    world = worlds()
    ref = killed_in_a_call(world)
    first = world.store.peek(ref)
    (call,) = first.pending
    world.store.save(first, replace(first, rev=first.rev + 1, pending=()))
    answered = an_attempt(started_ms=call.started_ms)
    late = Output(key=OutputKey.of_answer(first.fence), created_ms=world.clock(), text="Hello.", attempts=(answered,))
    world.engine.before = lambda call: world.store.keep(ref, late)
    world.clock.pass_s(world.substrate.lease_s + 1)
    world.sweep()
    world.deliver(world.process("second", {1: Kind.KILLED_AFTER}, of="engine."))
    world.clock.pass_s(world.substrate.lease_s + 1)
    cancel(world)
    snapshot = world.store.get(ref)

    assert [attempt.failure for attempt in snapshot.attempts] == [None, "lost"]
    assert snapshot.attempts[0] == answered
    assert (snapshot.task.receipt.calls, snapshot.task.receipt.failed_calls) == (1, 1)
    assert snapshot.task.receipt.cost_microusd == answered.cost_microusd
