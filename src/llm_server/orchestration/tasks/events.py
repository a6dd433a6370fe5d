"""What happened to a task, told from what is stored about it anyway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.output import Output, OutputKind
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Note, Task

Actor = Literal["caller", "server", "worker", "sweep"]

_NOTES: dict[str, tuple[str, Actor]] = {
    Note.CLAIMED: ("claimed", "worker"),
    Note.RELEASED: ("released", "worker"),
    Note.WAITING: ("waiting", "worker"),
    Note.APPROVED: ("approved", "caller"),
    Note.RETRIED: ("retried", "caller"),
    Note.OVERDUE: ("failed", "sweep"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, when (Unix milliseconds), and who did it; `detail` may be empty."""

    name: str
    at_ms: int
    actor: Actor
    detail: str = ""


def history(snapshot: Snapshot) -> list[Event]:
    """A task's events, oldest first. Of claims, releases, waits, approvals and retries the last 6 are known."""
    found = [*_accepted(snapshot), *_noted(snapshot.task), *_worked(snapshot), *_failed_over(snapshot)]
    return [*sorted(found, key=lambda event: event.at_ms), *_ended(snapshot.task)]


def _accepted(snapshot: Snapshot) -> Iterator[Event]:
    task, at_ms = snapshot.task, snapshot.task.created_ms
    yield Event(name="created", at_ms=at_ms, actor="caller")
    how = f"{task.mode} mode, {task.role}, confidence {snapshot.request.confidence:.2f}"
    yield Event(name="analysed", at_ms=at_ms, actor="server", detail=how)


def _noted(task: Task) -> Iterator[Event]:
    for note, after_ms in task.notes:
        at_ms = task.created_ms + after_ms
        is_end = (note, at_ms) == (Note.OVERDUE, task.finished_ms)  # told by `_ended`
        if note in _NOTES and not is_end:  # a newer version may have stored others
            name, actor = _NOTES[note]
            yield Event(name=name, at_ms=at_ms, actor=actor)


def _worked(snapshot: Snapshot) -> Iterator[Event]:
    for output in snapshot.outputs.values():
        at_ms = output.created_ms
        if output.key.kind is OutputKind.PLAN:
            steps = len(plans.stored(output.text or "").steps)
            yield Event(name="planned", at_ms=at_ms, actor="worker", detail=f"{steps} steps")
        elif output.key.kind is OutputKind.STEP:
            yield Event(name=_step(output), at_ms=at_ms, actor="worker", detail=output.key.step)
        elif output.key.ends_claim and output.error and at_ms != snapshot.task.finished_ms:
            yield Event(name="failed", at_ms=at_ms, actor="worker", detail=output.error)


def _step(output: Output) -> str:
    return "step finished" if output.error is None else "step failed"


def _failed_over(snapshot: Snapshot) -> Iterator[Event]:
    for attempt in snapshot.attempts:
        if attempt.failover_from is not None:
            probe = ", probe" if attempt.probe else ""
            detail = f"from {attempt.failover_from}{probe} to {attempt.engine}"
            yield Event(name="engine failed over", at_ms=attempt.started_ms, actor="worker", detail=detail)


def _ended(task: Task) -> Iterator[Event]:
    if task.finished_ms is None:
        return
    swept = bool(task.notes) and task.notes[-1] == (Note.OVERDUE, task.finished_ms - task.created_ms)
    actor: Actor = "caller" if task.status is Status.CANCELLED else "sweep" if swept else "worker"
    yield Event(name=task.status.lower(), at_ms=task.finished_ms, actor=actor, detail=task.error or "")
