"""The numbered events of a task, derived from its records (ADR 51)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from llm_server.orchestration.domain import event_numbers as numbers
from llm_server.orchestration.domain.output import Output, OutputKind
from llm_server.orchestration.domain.receipt import Attempt, usd
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Note, Task
from llm_server.orchestration.events import history
from llm_server.orchestration.events.history import Event


def numbered(snapshot: Snapshot, *, now_ms: int) -> list[Event]:
    """Return the events of a task, except the pieces of its text, in the order of their numbers.

    Of two events with the same number, which tell of the same thing, the first is kept.
    """
    found = [*_ends(snapshot, now_ms), *_accepted(snapshot), *_moves(snapshot), *_work(snapshot)]
    by_number = dict[int, Event]()
    for event in found:
        by_number.setdefault(event.number, event)
    return [by_number[number] for number in sorted(by_number)]


def has_ended(task: Task, *, now_ms: int) -> bool:
    """Return whether a task has all its events. The worker of a Cancelled task may still record what it paid for."""
    return task.status.is_final and not task.has_worker(now_ms)


def _ends(snapshot: Snapshot, now_ms: int) -> Iterator[Event]:
    """Yield the end of a final task, and its receipt once no worker can add to it."""
    task = snapshot.task
    for event in history.ended(snapshot):
        yield replace(event, number=numbers.number(task.final_rev or task.rev, numbers.END))
        if has_ended(task, now_ms=now_ms):
            paid = task.receipt
            calls = f"{paid.calls + paid.failed_calls} calls, {paid.failed_calls} of them failed"
            tokens = f"{paid.tokens_in} tokens in, {paid.tokens_out} out"
            detail = f"{usd(paid.cost_microusd)} USD, {calls}, {tokens}"
            number = numbers.number(task.rev, numbers.RECEIPT)
            yield Event(name="receipt", number=number, at_ms=event.at_ms, actor="server", detail=detail)


def _accepted(snapshot: Snapshot) -> Iterator[Event]:
    for event, place in zip(history.accepted(snapshot), (numbers.ACCEPTED, numbers.ROUTED), strict=True):
        yield replace(event, number=numbers.number(1, place))


def _moves(snapshot: Snapshot) -> Iterator[Event]:
    """Yield the events of the task's notes."""
    for index, rev in enumerate(snapshot.task.known_revs):
        is_overdue = snapshot.task.notes[index][0] == Note.OVERDUE
        places = (numbers.END,) if is_overdue else (numbers.MOVE, numbers.MOVE_WAITS)
        for event, place in zip(history.noted(snapshot, index), places, strict=False):
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
    for event, place in zip(history.told(snapshot, output), places, strict=False):
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
