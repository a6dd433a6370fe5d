"""Cancel, retry and delete: each fault at each of their calls, and races of a cancel with the finish."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from faults.audits import alarms
from faults.conftest import Worlds
from faults.kinds import AWS, Kind
from faults.ledger import Ledger
from faults.strikes import IN_TIME_S, SINGLE, Faults, Scenario, quickly, strike
from faults.substrates import again
from faults.world import SWEEP_EVERY_S, TICK_S, World
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.errors import PromptRefused, TaskNotFound
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef

BROKEN_OFF_S = 60 + SWEEP_EVERY_S + TICK_S
"""The time after which a sweep completes an interrupted deletion: its age of 60 s, and the next sweep."""
WARM = 3
"""Runs before the races, to measure how long one takes."""
ENDS = {200: Status.CANCELLED, 409: Status.COMPLETED}
"""The status that the answer to a cancel promises."""


def cancel_of_a_queued_task(world: World, faults: Faults) -> None:
    world.post("Say hello.", mode="Chat")
    cancelled(world, faults)
    world.settle(within_s=IN_TIME_S)


def cancel_of_a_task_at_work(world: World, faults: Faults) -> None:
    """The caller cancels during the engine call."""

    def before(_: EngineCall) -> None:
        world.engine.before = lambda call: None
        cancelled(world, faults)

    world.engine.before = before
    world.post("Say hello.", mode="Chat")
    world.deliver()
    world.settle(within_s=IN_TIME_S)


def cancelled(world: World, faults: Faults) -> None:
    (ref,) = world.refs()
    world.to_be_cancelled.add(ref)
    status = world.insist("POST", f"/tasks/{ref.task_id}/cancel", world.process("caller", faults.get("caller")))
    hold_to(world, ref, status)


def hold_to(world: World, ref: TaskRef, answer: int) -> None:
    """Note if the task is not what the answer to its cancel promised."""
    if world.store.peek(ref).status is not ENDS.get(answer):
        world.noted.append(f"cancel answered {answer}, and the task is {world.store.peek(ref).status}")


def retry(world: World, faults: Faults) -> None:
    """Retry a question that failed once."""

    def refused(_: EngineCall) -> None:
        world.engine.before = lambda call: None
        raise PromptRefused("The engine refuses it.")

    world.engine.before = refused
    world.post("Say hello.", mode="Chat")
    world.deliver()
    (ref,) = world.refs()
    assert world.store.peek(ref).status is Status.FAILED
    world.insist("POST", f"/tasks/{ref.task_id}/retry", world.process("caller", faults.get("caller")))
    world.final.clear()  # the one way out of a final state
    world.settle(within_s=IN_TIME_S)


def delete_of_a_final_task(world: World, faults: Faults) -> None:
    world.post("Say hello.", mode="Chat")
    world.deliver()
    deleted(world, faults)


def delete_of_a_queued_task(world: World, faults: Faults) -> None:
    world.post("Say hello.", mode="Chat")
    deleted(world, faults)


def deleted(world: World, faults: Faults) -> None:
    (ref,) = world.refs()
    known = world.store.get(ref)
    by = world.process("caller", faults.get("caller"))
    status = world.insist("DELETE", f"/tasks/{ref.task_id}", by)
    world.delete(ref, known)
    if status not in (204, 404):
        world.noted.append(f"delete answered {status}")
    swept(world)


def delete_that_is_not_sent_again(world: World, faults: Faults) -> None:
    """The caller does not repeat the call: the task then has all its texts, or none."""
    world.post("Say hello.", mode="Chat")
    world.deliver()
    (ref,) = world.refs()
    known = world.store.get(ref)
    world.call("DELETE", f"/tasks/{ref.task_id}", world.process("caller", faults.get("caller")))
    try:
        world.store.get(ref)
    except TaskNotFound:
        world.delete(ref, known)
    swept(world)


def swept(world: World) -> None:
    world.pass_s(BROKEN_OFF_S)
    world.settle(within_s=IN_TIME_S)


SCENARIOS: list[Scenario] = [
    cancel_of_a_queued_task,
    cancel_of_a_task_at_work,
    retry,
    delete_of_a_final_task,
    delete_of_a_queued_task,
    delete_that_is_not_sent_again,
]


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_single_fault_spoils_what_a_caller_does(
    sqlite_worlds: Worlds, scenario: Scenario, kind: Kind, ledger: Ledger
) -> None:
    strike(sqlite_worlds, scenario, kind, ledger, struck=("caller",))


@pytest.mark.parametrize("kind", quickly(Kind.KILLED_AFTER, Kind.DELAYED))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_single_fault_spoils_what_a_caller_does_on_aws(
    moto_worlds: Worlds, scenario: Scenario, kind: Kind, ledger: Ledger
) -> None:
    strike(moto_worlds, scenario, kind, ledger, struck=("caller",))


@pytest.mark.attack
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_the_sdk_sends_twice_is_done_once(moto_worlds: Worlds, scenario: Scenario, ledger: Ledger) -> None:
    strike(moto_worlds, scenario, Kind.TWICE, ledger, struck=("caller",), only=AWS.repeats)


def cancel_during_a_call(world: World, faults: Faults) -> None:
    """A task is cancelled while one of its worker's calls hangs."""
    world.post("Say hello.", mode="Chat")
    (ref,) = world.refs()
    world.to_be_cancelled.add(ref)
    answers: list[int] = []

    def cancel() -> None:
        answers.append(world.insist("POST", f"/tasks/{ref.task_id}/cancel", world.process("caller")))

    world.during_hang = cancel
    world.deliver(world.process("worker", faults.get("worker")))
    if world.store.peek(ref).receipt.calls != len(world.engine.calls):  # before its message comes again
        world.noted.append("what its worker paid is not on the receipt")
    world.settle(within_s=IN_TIME_S)
    for answer in answers:
        hold_to(world, ref, answer)


@pytest.mark.parametrize("kind", [Kind.DELAYED, Kind.LATE])
def test_a_cancel_between_any_two_calls_of_the_worker_counts_once(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    strike(worlds, cancel_during_a_call, kind, ledger, struck=("worker",))


def cancel_elsewhere_during_a_call(world: World, faults: Faults) -> None:
    """The worker meets a fault itself, before or after the cancel, at a save or at the settlement."""

    def before(_: EngineCall) -> None:
        world.engine.before = lambda call: None
        cancelled(world, {})

    world.engine.before = before
    world.post("Say hello.", mode="Chat")
    world.deliver(world.process("worker", faults.get("worker")))
    world.settle(within_s=IN_TIME_S)


@pytest.mark.parametrize("kind", [Kind.ERROR, Kind.LOST, Kind.KILLED_BEFORE, Kind.KILLED_AFTER])
def test_what_a_kept_answer_cost_is_on_a_cancelled_tasks_receipt(worlds: Worlds, kind: Kind, ledger: Ledger) -> None:
    """The worker meets a fault at each of its calls, also at those of the settlement."""
    strike(worlds, cancel_elsewhere_during_a_call, kind, ledger, struck=("worker",))


@pytest.mark.parametrize("races", [40, pytest.param(200, marks=pytest.mark.attack)])
def test_a_cancel_that_races_with_the_finish_ends_a_task_once(all_worlds: Worlds, ledger: Ledger, races: int) -> None:
    """The cancel comes at any moment of the work; embedded, the worker's own process is told."""
    world, chance, ends = all_worlds(), random.Random(races), Counter[str]()
    work_s = [raced(world, n, by_s=None) for n in range(WARM)][-1]
    for n in range(WARM, races):
        raced(world, n, by_s=chance.uniform(-work_s, work_s))
    world.substrate.purge()
    counters = world.store.overview()[0]
    world.settle(within_s=0)

    receipts = [world.store.peek(ref).receipt for ref in world.refs()]
    cost, calls = sum(receipt.cost_microusd for receipt in receipts), sum(receipt.calls for receipt in receipts)
    ends.update(world.store.peek(ref).status.value for ref in world.refs())
    note = f"{dict(ends)}, receipts {cost}, api_costs {counters.cost_microusd} micro-USD"
    ledger.enter(f"cancel races with finish, {races} times", world.substrate.name, 0, alarms(world), note)
    assert ends == {"Cancelled": counters.cancelled, "Completed": counters.completed}
    assert (counters.total, cost) == (races, counters.cost_microusd)
    assert calls == len(world.engine.calls), "what a cancelled task's worker paid is on its receipt"


def raced(world: World, number: int, *, by_s: float | None) -> float:
    """Process a task and cancel it `by_s` later, or not at all; return how long the work took."""
    world.post(f"Say {number}.", mode="Chat")
    (ref,) = world.acknowledged.keys() - world.final.keys()
    worker, together, took_s = world.process("worker"), Barrier(1 if by_s is None else 2), list[float]()
    caller = worker if world.substrate.name == "SQLite" else world.process("caller")

    def work() -> None:
        together.wait()
        time.sleep(max(0.0, -(by_s or 0.0)))
        began = time.monotonic()
        world.work([again(ref)], worker)
        took_s.append(time.monotonic() - began)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        if by_s is not None:
            world.to_be_cancelled.add(ref)
            together.wait()
            time.sleep(max(0.0, by_s))
            hold_to(world, ref, world.insist("POST", f"/tasks/{ref.task_id}/cancel", caller))
        working.result()
    world.note_final([ref])
    return took_s[0]
