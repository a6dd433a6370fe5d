"""A task's history, and its numbered events. They are derived from the task's records (ADR 51)."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain import event_numbers as numbers
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.output import PLAN, Output, OutputKind
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.receipt import Attempt, usd
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Note, Task

Actor = Literal["caller", "server", "worker", "sweep"]

EVENT_NAMES = (
    "accepted",
    "routed",
    "claimed",
    "triaged",
    "released",
    "waiting",
    "planned",
    "awaiting_approval",
    "approved",
    "retried",
    "step.completed",
    "step.failed",
    "attempt.failed",
    "completed",
    "failed",
    "cancelled",
)
_NOTES: dict[str, tuple[str, Actor]] = {
    Note.CLAIMED: ("claimed", "worker"),
    Note.RELEASED: ("released", "worker"),
    Note.WAITING: ("waiting", "worker"),
    Note.APPROVED: ("approved", "caller"),
    Note.RETRIED: ("retried", "caller"),
    Note.OVERDUE: ("failed", "sweep"),
}
REJECTED = "the plan was rejected"
_AFTER_WORK = ("released", "waiting", "approved", "retried")


class Event(Struct, frozen=True, kw_only=True):
    """One event of a task's history. `at_ms` is in Unix milliseconds; `actor` caused it; `detail` may be empty.

    `number` is 0 in a history. `step` and `engine` are those that the event is about. `item` is the number of the event
    that began the engine call, and `text` a piece of its text.
    """

    name: str
    at_ms: int
    actor: Actor
    detail: str = ""
    number: int = 0
    step: str | None = None
    engine: str | None = None
    item: int | None = None
    text: str | None = None


class EventPage(Struct, frozen=True, kw_only=True):
    """Events of a task in the order of their numbers.

    `ended`: no further event comes, unless the task is retried.
    """

    events: tuple[Event, ...]
    ended: bool


def of_delta(delta: Delta) -> Event:
    """Return a piece of text as an event."""
    return Event(
        name="text.delta",
        number=delta.number,
        at_ms=delta.at_ms,
        actor="worker",
        step=delta.step or None,
        item=delta.item,
        text=delta.text,
    )


def history(snapshot: Snapshot) -> list[Event]:
    """Return a task's events, oldest first.

    Claims, releases, waits, approvals and retries are known from the task's notes, of which it keeps the last 6.
    """
    moves = [
        *accepted(snapshot),
        *(event for index in range(len(snapshot.task.notes)) for event in noted(snapshot, index)),
    ]
    outputs = (event for output in snapshot.outputs.values() for event in told(snapshot, output))
    work = sorted([*_failed_attempts(snapshot), *outputs], key=lambda event: event.at_ms)
    return [*merge(moves, work, key=_order), *ended(snapshot.task)]


def _order(event: Event) -> tuple[int, bool]:
    """Return the sort key: the time, and within one millisecond, work before the moves that follow it."""
    return event.at_ms, event.name in _AFTER_WORK


def accepted(snapshot: Snapshot) -> Iterator[Event]:
    """Yield that the task was accepted, and how it was routed."""
    task, at_ms, triage = snapshot.task, snapshot.task.created_ms, snapshot.triage
    yield Event(name="accepted", at_ms=at_ms, actor="caller")
    mode, role = (triage.was_mode, triage.was_role) if triage else (task.mode, task.role)
    how = f"{mode} mode, {role}, confidence {snapshot.request.confidence:.2f}"
    yield Event(name="routed", at_ms=at_ms, actor="server", detail=how)


def noted(snapshot: Snapshot, index: int) -> Iterator[Event]:
    """Yield the events of one of the task's notes. A note of a kind that a newer version added has none."""
    task = snapshot.task
    note, after_ms = task.notes[index]
    at_ms = task.created_ms + after_ms
    is_end = note == Note.OVERDUE and at_ms == task.finished_ms  # `ended` yields this event
    if note not in _NOTES or is_end:
        return
    name, actor = _NOTES[note]
    yield Event(name=name, at_ms=at_ms, actor=actor)
    if note == Note.RETRIED and _waits_again(snapshot, index):
        yield Event(name="awaiting_approval", at_ms=at_ms, actor="server")


def _waits_again(snapshot: Snapshot, retry: int) -> bool:
    """Return whether the plan waited for approval after the retry that is recorded in `notes[retry]`."""
    task, plan = snapshot.task, snapshot.outputs.get(PLAN)
    notes = [note for note, _ in task.notes]
    is_undecided = task.approval in ("awaited", "refused") or Note.APPROVED in notes[retry:]
    if task.approval is None or not is_undecided or plan is None:
        return False
    if plan.rev:
        return plan.rev < task.known_revs[retry]
    return plan.created_ms <= task.created_ms + task.notes[retry][1]


def told(snapshot: Snapshot, output: Output) -> Iterator[Event]:
    """Yield the events that an output tells of: a triage, the plan, the end of a step, a claim that failed."""
    at_ms = output.created_ms
    if output.key.kind is OutputKind.TRIAGE:
        detail = snapshot.triage.detail if snapshot.triage else ""
        yield Event(name="triaged", at_ms=at_ms, actor="worker", detail=detail)
    elif output.key.kind is OutputKind.PLAN:
        yield from _planned(snapshot.task, output)
    elif output.key.kind is OutputKind.STEP:
        name = "step.completed" if output.error is None else "step.failed"
        yield Event(name=name, at_ms=at_ms, actor="worker", detail=output.key.step)
    elif output.key.ends_claim and output.error and at_ms != snapshot.task.finished_ms:
        yield Event(name="failed", at_ms=at_ms, actor="worker", detail=output.error)


def _planned(task: Task, plan: Output) -> Iterator[Event]:
    steps = len(plans.from_json(plan.text or "").steps)
    yield Event(name="planned", at_ms=plan.created_ms, actor="worker", detail=f"{steps} steps")
    if task.approval is not None:
        yield Event(name="awaiting_approval", at_ms=plan.created_ms, actor="worker")


def _failed_attempts(snapshot: Snapshot) -> Iterator[Event]:
    """Yield every engine call that failed; the detail is the engine, and the kind of failure if it is known."""
    for attempt in snapshot.attempts:
        if not attempt.answered:
            kind = f": {attempt.failure}" if attempt.failure else ""
            at_ms = attempt.started_ms + attempt.duration_ms
            yield Event(name="attempt.failed", at_ms=at_ms, actor="worker", detail=f"{attempt.engine}{kind}")


def ended(task: Task) -> Iterator[Event]:
    """Yield the end of a final task."""
    if task.finished_ms is None:
        return
    detail = REJECTED if task.approval == "refused" else task.error or ""
    yield Event(name=task.status.lower(), at_ms=task.finished_ms, actor=_ended_by(task), detail=detail)


def _ended_by(task: Task) -> Actor:
    """Return the actor that ended a final task."""
    if task.status is Status.CANCELLED:
        return "caller"
    if task.notes and task.notes[-1] == (Note.OVERDUE, (task.finished_ms or 0) - task.created_ms):
        return "sweep"
    return "worker"


def numbered(snapshot: Snapshot, *, now_ms: int) -> list[Event]:
    """Return the events of a task, except the pieces of its text, in the order of their numbers.

    Of two events with the same number, which tell of the same thing, the first is kept.
    """
    found = [*_ends(snapshot.task, now_ms), *_accepted(snapshot), *_moves(snapshot), *_work(snapshot)]
    by_number = dict[int, Event]()
    for event in found:
        by_number.setdefault(event.number, event)
    return [by_number[number] for number in sorted(by_number)]


def has_ended(task: Task, *, now_ms: int) -> bool:
    """Return whether a task has all its events. The worker of a Cancelled task may still record what it paid for."""
    return task.status.is_final and not task.has_worker(now_ms)


def _ends(task: Task, now_ms: int) -> Iterator[Event]:
    """Yield the end of a final task, and its receipt once no worker can add to it."""
    for event in ended(task):
        yield replace(event, number=numbers.number(task.final_rev or task.rev, numbers.END))
        if has_ended(task, now_ms=now_ms):
            paid = task.receipt
            calls = f"{paid.calls + paid.failed_calls} calls, {paid.failed_calls} of them failed"
            tokens = f"{paid.tokens_in} tokens in, {paid.tokens_out} out"
            detail = f"{usd(paid.cost_microusd)} USD, {calls}, {tokens}"
            number = numbers.number(task.rev, numbers.RECEIPT)
            yield Event(name="receipt", number=number, at_ms=event.at_ms, actor="server", detail=detail)


def _accepted(snapshot: Snapshot) -> Iterator[Event]:
    for event, place in zip(accepted(snapshot), (numbers.ACCEPTED, numbers.ROUTED), strict=True):
        yield replace(event, number=numbers.number(1, place))


def _moves(snapshot: Snapshot) -> Iterator[Event]:
    """Yield the events of the task's notes."""
    for index, rev in enumerate(snapshot.task.known_revs):
        is_overdue = snapshot.task.notes[index][0] == Note.OVERDUE
        places = (numbers.END,) if is_overdue else (numbers.MOVE, numbers.MOVE_WAITS)
        for event, place in zip(noted(snapshot, index), places, strict=False):
            yield replace(event, number=numbers.number(rev, place))


def _work(snapshot: Snapshot) -> Iterator[Event]:
    """Yield the events of engine calls and outputs. Those of old records have no revision: they follow by time."""
    old, calls = list[Event](), list[Attempt]()
    for output in snapshot.outputs.values():
        if output.is_answer and output.key.number != snapshot.task.answer_fence:
            continue
        rev = snapshot.task.rev if output.is_answer else output.rev
        calls += output.attempts
        found = [*_call_ends(output.with_ends(rev)), *_told(snapshot, output, rev)]
        if rev:
            yield from found
        else:
            yield from (event for event in found if event.number)
            old += [event for event in found if not event.number]
    yield from _begins([*calls, *snapshot.task.pending])
    first = numbers.number(2, numbers.OLD_WORK)
    for place, event in enumerate(sorted(old, key=lambda event: event.at_ms)):
        yield replace(event, number=first + place)


def _call_ends(output: Output) -> Iterator[Event]:
    for attempt in output.attempts:
        kind = f": {attempt.failure}" if attempt.failure else ""
        yield Event(
            name="attempt.completed" if attempt.answered else "attempt.failed",
            number=attempt.end_number,
            at_ms=attempt.started_ms + attempt.duration_ms,
            actor="worker",
            detail=f"{attempt.engine}{kind}",
            engine=attempt.engine,
            step=attempt.step_id or None,
            item=attempt.event_number,
        )


def _told(snapshot: Snapshot, output: Output, rev: int) -> Iterator[Event]:
    """Yield the events that an output tells of; their number is 0 without a revision."""
    places = (numbers.WORK, numbers.WORK_WAITS)
    if output.key.kind is OutputKind.TRY:  # the failure of a task that was retried
        places = (numbers.END, numbers.RECEIPT)
    for event, place in zip(told(snapshot, output), places, strict=False):
        step = output.key.step if output.key.kind is OutputKind.STEP else None
        yield replace(event, number=numbers.number(rev, place) if rev else 0, step=step)


def _begins(attempts: list[Attempt]) -> Iterator[Event]:
    """Yield the beginning of each call, and of each step, which is that of its first call.

    In old records no call has a number: they get them in the order of their time.
    """
    begun, old = set[str](), numbers.FIRST_CALL
    calls = dict[int, Attempt]()
    for attempt in sorted(attempts, key=lambda attempt: attempt.started_ms):
        number = attempt.number or old
        old += 0 if attempt.number else 2
        calls.setdefault(number, attempt)
    for number in sorted(calls):
        attempt = calls[number]
        purpose, _, step = attempt.purpose.partition(" ")
        if purpose == "step" and step not in begun:
            begun.add(step)
            yield Event(
                name="step.started", number=number - 1, at_ms=attempt.started_ms, actor="worker", detail=step, step=step
            )
        yield Event(
            name="attempt.started",
            number=number,
            at_ms=attempt.started_ms,
            actor="worker",
            detail=f"{attempt.engine}: {attempt.purpose}",
            engine=attempt.engine,
            step=step or None,
            item=number,
        )
