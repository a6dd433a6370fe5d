"""A task's history. It is derived from the task's records; of the events, only pieces of text are stored (ADR 51)."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Literal

from msgspec import Struct

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.output import PLAN, Output, OutputKind
from llm_server.orchestration.domain.ports.deltas import Delta
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
MAX_DETAIL_CHARS = 500
"""How much of the names that an engine wrote is shown."""
_AFTER_WORK = ("released", "waiting", "approved", "retried")


class Event(Struct, frozen=True, kw_only=True):
    """One event of a task's history. `at_ms` is in Unix milliseconds; `actor` caused it; `detail` may be empty.

    `number` is 0 in a history. `step` and `engine` are those that the event is about. `item` is the number of the event
    that began the engine call, and `text` a piece of its text. `tool_calls` are those that a final answer asks for.
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
    tool_calls: tuple[ToolCall, ...] = ()


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
    return [*merge(moves, work, key=_order), *ended(snapshot)]


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


def ended(snapshot: Snapshot) -> Iterator[Event]:
    """Yield the end of a final task. The detail names the functions that the answer asks for."""
    task, calls = snapshot.task, snapshot.tool_calls
    if task.finished_ms is None:
        return
    detail = REJECTED if task.approval == "refused" else task.error or ""
    if calls:
        detail = f"function calls: {', '.join(call.name for call in calls)}"[:MAX_DETAIL_CHARS]
    name = task.status.lower()
    yield Event(name=name, at_ms=task.finished_ms, actor=_ended_by(task), detail=detail, tool_calls=calls)


def _ended_by(task: Task) -> Actor:
    """Return the actor that ended a final task."""
    if task.status is Status.CANCELLED:
        return "caller"
    if task.notes and task.notes[-1] == (Note.OVERDUE, (task.finished_ms or 0) - task.created_ms):
        return "sweep"
    return "worker"
