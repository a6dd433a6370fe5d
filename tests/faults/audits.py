"""The audit after a fault: what was promised, read from the store, the queue and the engine's own log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from audit import audit as recount
from faults.engine import answer_to
from faults.world import World
from llm_server.orchestration.snapshot import Snapshot
from llm_server.orchestration.task import Mode, Status


def alarms(world: World, *, may_fail: Callable[[str], bool] = lambda prompt: False) -> list[str]:
    """Everything that is wrong in a world that has settled. `may_fail` tells of which prompts a failure was caused."""
    snapshots = {ref: world.store.get(ref) for ref in world.refs()}
    found = [f"{ref} was acknowledged and is lost" for ref in world.acknowledged.keys() - snapshots.keys()]
    for ref, snapshot in snapshots.items():
        found += [f"{ref}: {what}" for what in _of_task(world, snapshot, may_fail)]
        if ref in world.acknowledged and snapshot.request.prompt != world.acknowledged[ref]:
            found.append(f"{ref} has another prompt")
        if ref in world.final and _shown(snapshot) != _shown(world.final[ref]):
            found.append(f"{ref} changed after it was final")
    return [*found, *_miscounted(world), *_left_over(world), *world.paid_twice]


def _shown(snapshot: Snapshot) -> tuple[object, ...]:
    """What a caller sees; an answer that came too late is stored beside it and never shown."""
    return snapshot.task, snapshot.request, snapshot.result, snapshot.attempts


def _of_task(world: World, snapshot: Snapshot, may_fail: Callable[[str], bool]) -> Iterator[str]:
    task, prompt = snapshot.task, snapshot.request.prompt
    asked = [call for call in world.engine.calls if prompt in call.prompt]
    if not task.status.is_final:
        yield f"is {task.status} after {world.final_after_s:.0f} s"
    if task.status is Status.FAILED and not may_fail(prompt):
        yield f"failed: {task.error}"
    if task.status is Status.COMPLETED and snapshot.result not in {answer_to(c.system, c.prompt) for c in asked}:
        yield "has a result that is not its own"
    most = max(Counter(map(repr, asked)).values(), default=0)
    if most > task.fence:
        yield f"was asked {most} times for the same in {task.fence} claims"
    recorded = task.receipt.calls + task.receipt.failed_calls
    if task.mode is not Mode.PLAN and len(asked) > task.fence:
        yield f"took {len(asked)} engine calls in {task.fence} claims"
    if task.receipt.calls > len(asked):
        yield f"has {recorded} calls on its receipt and was asked {len(asked)} times"


def _miscounted(world: World) -> Iterator[str]:
    try:
        recount(world.store, world.refs())
    except AssertionError as wrong:
        yield f"miscounted: {wrong}"


def _left_over(world: World) -> Iterator[str]:
    if left := world.substrate.left():
        yield f"{left} messages are left in the queue"
    if dead := world.substrate.dead():
        yield f"{dead} messages are dead letters"
