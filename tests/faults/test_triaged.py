"""A triage is decided once, whatever fails: its call is on the receipt, and no failure of it fails the task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.audits import ROLES, alarms
from faults.conftest import Worlds
from faults.engine import answer_to
from faults.kinds import AWS, Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, SINGLE, Faults, strike
from faults.test_receipts import killed_again_and_again, missing
from faults.world import World
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.triage import LOST
from support.triage_answers import triages, unsure

PROMPT = "Say hello."
CALLS = {"SQLite": 17, "moto": 12}
"""The exact numbers of calls of POST and worker: one save and one engine call more than for a Chat task."""
WORKER_CALLS_BEFORE_THE_DECISION = {"SQLite": 6, "moto": 3}


def unsure_world(worlds: Worlds, **defaults: object) -> World:
    world = worlds()
    world.catalog = unsure(**defaults)  # type: ignore[arg-type]
    return world


def triaged(world: World, faults: Faults) -> None:
    """Post a question of which the analysis is unsure."""
    world.catalog = unsure()
    world.post(PROMPT, world.process("post", faults.get("post")))
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    world.noted += wrong(world)


def planned(world: World, faults: Faults) -> None:
    """Post a question that the engine turns into a plan of two steps."""
    world.catalog = unsure(parallel_steps=1)
    world.engine.steps = {"one": "", "last": "one"}
    world.engine.triage = {"mode": "Plan", "role": "Deep-Coder-Agent", "complexity": 0.5}
    world.post(PROMPT, world.process("post", faults.get("post")))
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)
    world.noted += wrong(world)


def wrong(world: World) -> Iterator[str]:
    """Yield what is wrong with the triages of a settled world, in which every task was to be triaged."""
    asked = triages(world.engine)  # type: ignore[arg-type]
    for prompt in set(world.acknowledged.values()):
        if (times := sum(prompt in call.prompt for call in asked)) > 1:
            yield f"{prompt} was triaged {times} times"
    for ref in world.refs():
        snapshot = world.store.get(ref)
        yield from (f"{ref}: {what}" for what in of_task(snapshot))


def of_task(snapshot: Snapshot) -> Iterator[str]:
    task, triage = snapshot.task, snapshot.triage
    calls = [attempt for attempt in snapshot.attempts if attempt.purpose == "triage"]
    if not calls:
        yield "has no call for a triage on its receipt"
    if sum(call.answered for call in calls) > 1:
        yield "paid for two triages"
    if triage is None and (task.mode, task.role) != (Mode.CHAT, "Chat-Agent"):
        yield f"is in {task.mode} mode of {task.role} without a decision"
    if triage is None and snapshot.decided_request.reasons[-1] != LOST:
        yield "does not say that its triage was lost"
    if triage and (task.mode, task.role) != (triage.mode, triage.role):
        yield f"was decided for {triage.mode} mode, {triage.role}, and is in {task.mode} mode, {task.role}"
    if triage and triage.decided and not any(call.answered for call in calls):
        yield "has a decision without an answered call"
    if task.status is Status.COMPLETED and task.mode is not Mode.PLAN:
        answer = answer_to(ROLES[task.role].system_prompt, snapshot.request.prompt)
        if snapshot.result != answer:
            yield f"was answered by another role than {task.role}"


@pytest.mark.parametrize("kind", SINGLE)
def test_no_single_fault_decides_twice_or_loses_a_triage(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(worlds, triaged, kind, ledger, struck=("post", "worker"))


@pytest.mark.parametrize("kind", [Kind.KILLED_BEFORE, Kind.KILLED_AFTER, Kind.LOST])
def test_no_single_fault_spoils_a_plan_of_a_triage(sqlite_worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(sqlite_worlds, planned, kind, ledger, struck=("worker",))


def test_a_call_that_the_sdk_sends_twice_decides_once(moto_worlds: Worlds, ledger: Ledger) -> None:
    strike(moto_worlds, triaged, Kind.TWICE, ledger, struck=("post", "worker"), only=AWS.repeats)


def test_a_triage_costs_one_save_and_one_engine_call(worlds: Worlds) -> None:
    """The other tests compare with this run."""
    world = worlds()
    triaged(world, {})
    struck = [point for caller in world.callers if caller.name in ("post", "worker") for point in caller.points]

    assert alarms(world) == []
    assert len(struck) == CALLS[world.substrate.name], [str(point) for point in struck]
    (snapshot,) = (world.store.get(ref) for ref in world.refs())
    assert (snapshot.task.mode, snapshot.task.role) == (Mode.AGENT, "Teacher-Agent")
    assert [attempt.purpose for attempt in snapshot.attempts] == ["triage", "answer"]


def test_a_task_that_is_not_triaged_costs_nothing_more(worlds: Worlds) -> None:
    """A caller's role, with triage on: the calls are those of a task with triage off."""
    counted = []
    for defaults in ({"triage": "always"}, {"triage": "off"}):
        world = unsure_world(worlds, **defaults)
        world.post(PROMPT, world.process("post"), role="Writing-Agent")
        world.deliver(world.process("worker"))
        world.settle(within_s=IN_TIME_S)
        counted.append([point.name for caller in world.callers for point in caller.points])

    assert counted[0] == counted[1]


@pytest.mark.parametrize("kind", [Kind.KILLED_BEFORE, Kind.KILLED_AFTER])
def test_a_worker_killed_at_its_triage_leaves_a_lost_call_and_the_decision_of_the_analysis(
    worlds: Worlds, kind: Kind
) -> None:
    """Between the call and the save that would have stored the decision. The next worker does not ask again."""
    world = unsure_world(worlds)
    world.post(PROMPT)
    world.deliver(world.process("worker", {1: kind}, of="engine."))
    world.settle(within_s=IN_TIME_S)
    (snapshot,) = (world.store.get(ref) for ref in world.refs())
    lost, answer = snapshot.attempts

    assert [*wrong(world), *alarms(world)] == []
    assert (lost.purpose, lost.failure, lost.cost_microusd) == ("triage", "lost", 0)
    assert lost.withheld_microusd > 0
    assert (answer.purpose, answer.answered) == ("answer", True)
    assert (snapshot.task.status, snapshot.task.role) == (Status.COMPLETED, "Chat-Agent")


def test_a_worker_killed_after_its_decision_leaves_the_decision(worlds: Worlds) -> None:
    world = unsure_world(worlds)
    world.post(PROMPT)
    world.deliver(world.process("worker", {2: Kind.KILLED_BEFORE}, of="engine."))
    world.settle(within_s=IN_TIME_S)
    (snapshot,) = (world.store.get(ref) for ref in world.refs())

    assert [*wrong(world), *alarms(world)] == []
    assert [(a.purpose, a.failure) for a in snapshot.attempts] == [
        ("triage", None),
        ("answer", "lost"),
        ("answer", None),
    ]
    assert snapshot.task.role == "Teacher-Agent"


def test_a_triage_that_fails_fails_nothing_else(worlds: Worlds) -> None:
    """One engine, which is down for its first call: the task waits for it, as without a triage, and is answered."""
    world = unsure_world(worlds)
    world.engine.fails = 1
    world.post(PROMPT)
    world.deliver(world.process("worker"))
    world.settle(within_s=IN_TIME_S)
    (snapshot,) = (world.store.get(ref) for ref in world.refs())

    assert [*wrong(world), *alarms(world)] == []
    assert [(a.purpose, a.failure) for a in snapshot.attempts] == [("triage", "busy"), ("answer", None)]
    assert snapshot.task.status is Status.COMPLETED


def test_every_triage_is_on_a_receipt_through_15_kills(worlds: Worlds, ledger: Ledger) -> None:
    world = unsure_world(worlds)
    killed_again_and_again(world, lambda n: world.post(f"Say {n}."), last=12)
    found = [*alarms(world), *wrong(world)]

    ledger.enter("calls on receipts, triage, 15 kills", world.substrate.name, 15, found)
    assert found == []
    assert missing(world) <= 0
