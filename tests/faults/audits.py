"""The audit after a fault: checks the promises in the store, the queue and the engine's own log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from faults.engine import answer_to, result_to
from faults.readers import Reader, unseen, wrong_events
from faults.substrates import every_task
from faults.world import World
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.errors import TaskNotFound
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.audit import audit as recount
from support.audit import recounted
from support.scripted_engine import a_catalog

ROLES = a_catalog({}).roles


def alarms(world: World, *, may_fail: Callable[[str], bool] = lambda prompt: False) -> list[str]:
    """Return what is wrong in a settled world; `may_fail` tells prompts whose failure was caused on purpose."""
    snapshots = {ref: world.store.get(ref) for ref in world.refs()}
    lost = world.acknowledged.keys() - snapshots.keys() - world.deleted.keys()
    found = [f"{ref} was acknowledged and is lost" for ref in lost]
    found += [f"{ref} was deleted and is there" for ref in world.deleted.keys() & snapshots.keys()]
    for ref, snapshot in snapshots.items():
        found += [f"{ref}: {what}" for what in _of_task(world, snapshot, may_fail)]
        if ref in world.acknowledged and snapshot.request.prompt != world.acknowledged[ref]:
            found.append(f"{ref} has another prompt")
        if ref in world.final and _shown(snapshot) != _shown(world.final[ref]):
            found.append(f"{ref} changed after it was final")
    counted = recounted(world.deleted.values())
    found += [f"{ref}: {what}" for ref, what in _of_streams(world, snapshots)]
    return [*found, *miscounted(world.store, snapshots, counted), *_left_over(world), *world.noted]


def _of_streams(world: World, snapshots: Mapping[TaskRef, Snapshot]) -> Iterator[tuple[TaskRef, str]]:
    """Yield what is wrong with the events of the watched tasks."""
    if not world.is_watched:
        return
    world.read_events()
    for ref, snapshot in snapshots.items():
        late = Reader(ref)
        late.read(unseen(world.process("reader").service, world.store))
        yield from ((ref, what) for what in wrong_events(world.readers[ref], late, snapshot))


def _shown(snapshot: Snapshot) -> tuple[object, ...]:
    """What a caller sees; an answer that came too late is stored beside it and never shown.

    Onto the receipt of a Cancelled task comes what its worker paid until it heard of it.
    """
    if snapshot.task.status is Status.CANCELLED:
        return snapshot.task.status, snapshot.task.finished_ms, snapshot.request, snapshot.result
    return snapshot.task, snapshot.request, snapshot.result, snapshot.attempts


def _of_task(world: World, snapshot: Snapshot, may_fail: Callable[[str], bool]) -> Iterator[str]:
    task, prompt = snapshot.task, snapshot.request.prompt
    asked = [call for call in world.engine.calls if prompt in call.prompt]
    if task.ref in world.late:
        yield f"was not final in time, but after {world.final_after_s:.0f} s or later"
    if task.status is Status.FAILED and not may_fail(prompt):
        yield f"failed: {task.error}"
    if task.status is Status.CANCELLED and task.ref not in world.to_be_cancelled:
        yield "was cancelled without a caller's cancel"
    if task.status is Status.CANCELLED:
        yield from _unpaid(snapshot)
    answer = answer_to if snapshot.request.output_schema is None else result_to
    if task.status is Status.COMPLETED and snapshot.result not in {answer(c.system, c.prompt) for c in asked}:
        yield "has a result that is not its own"
    claims = task.fence + world.undone[task.ref]
    most = max(Counter(map(repr, asked)).values(), default=0)
    if most > claims:
        yield f"was asked {most} times for the same in {claims} claims"
    recorded = task.receipt.calls + task.receipt.failed_calls
    answers = [call for call in asked if call.answer_schema is None]
    if task.mode is not Mode.PLAN and len(answers) > claims:  # it may have been in Plan mode before
        yield f"took {len(answers)} engine calls for an answer in {claims} claims"
    if task.receipt.calls > len(asked):
        yield f"has {recorded} calls on its receipt and was asked {len(asked)} times"
    if not world.is_restored:
        yield from _not_on_receipt(snapshot, len(asked))


def _not_on_receipt(snapshot: Snapshot, asked: int) -> Iterator[str]:
    """Yield the task if its receipt lacks calls that the engine had; a lost call on it may never have been sent."""
    receipt = snapshot.task.receipt
    if asked > receipt.calls + receipt.failed_calls:
        yield f"was asked {asked} times, and {receipt.calls + receipt.failed_calls} calls are on its receipt"
    if snapshot.task.status.is_final and snapshot.task.pending:
        yield "is final and has pending calls"


def _unpaid(snapshot: Snapshot) -> Iterator[str]:
    """Yield answers of cancelled tasks whose cost is not on the receipt: each needs a `TRY#` output."""
    for output in snapshot.outputs.values():
        if output.is_answer and output.as_a_try().key not in snapshot.outputs:
            yield f"was cancelled, and its {output.key} is not on the receipt"


def miscounted(store: Store, refs: Collection[TaskRef], before: Counters | None = None) -> Iterator[str]:
    """Yield the counters that differ from the tasks; no worker may be running."""
    try:
        recount(store, refs, before=before)
    except AssertionError as wrong:
        yield f"miscounted: {wrong}"


def snapshots_of(store: Store) -> dict[TaskRef, Snapshot]:
    return {ref: store.get(ref) for ref in every_task(store)}


def _left_over(world: World) -> Iterator[str]:
    if left := world.substrate.left():
        yield f"{left} messages are left in the queue"
    if dead := world.substrate.dead():
        yield f"{dead} messages are dead letters"
    for ref in world.deleted:
        if texts := world.substrate.texts(ref):
            yield f"{texts} texts of {ref} are left after it was deleted"


def of_processes(
    store: Store,
    acknowledged: Mapping[str, str],
    answered: Mapping[str, int],
    final: Mapping[TaskRef, Snapshot],
    *,
    may_fail: Collection[str] = (),
) -> list[str]:
    """Everything that is wrong after real processes were killed, and every message has come once more.

    `acknowledged` prompts by task; `answered` says how often the engine answered a prompt; `final` is how the tasks
    looked before their messages came again; `may_fail` are prompts whose failure was caused.
    """
    found = snapshots_of(store)
    lost = acknowledged.keys() - {ref.task_id for ref in found}
    alarms = [f"{task_id} was acknowledged and is lost" for task_id in lost]
    alarms += [f"{ref} came late" for ref in found.keys() ^ final.keys()]
    for ref, snapshot in found.items():
        task, prompt = snapshot.task, snapshot.request.prompt
        if prompt != acknowledged.get(ref.task_id, prompt):
            alarms.append(f"{ref} has another prompt")
        if task.status is not (Status.FAILED if prompt in may_fail else Status.COMPLETED):
            alarms.append(f"{ref} is {task.status}: {task.error}")
        elif prompt not in may_fail and snapshot.result != answer_to(ROLES[task.role].system_prompt, prompt):
            alarms.append(f"{ref} has a result that is not its own")
        alarms += [f"{ref} {what}" for what in _not_on_receipt(snapshot, answered[prompt])]
        if answered[prompt] > task.fence:
            alarms.append(f"{ref} was answered {answered[prompt]} times in {task.fence} claims")
        if ref in final and _shown(snapshot) != _shown(final[ref]):
            alarms.append(f"{ref} changed after it was final")
    return [*alarms, *miscounted(store, found)]


def of_queues(store: Store, left: int, dead_letters: Iterable[str]) -> Iterator[str]:
    """Yield messages left in a queue, and dead letters whose tasks did not end without them."""
    if left:
        yield f"{left} messages are left in the queue"
    for body in dead_letters:
        try:
            ref = TaskRef.parse(json.loads(body)["task"])
            if not store.peek(ref).status.is_final:
                yield f"the dead letter of {ref} was all that could have woken it"
        except (LookupError, ValueError, TypeError, TaskNotFound):
            yield f"a dead letter says {body!r}"
