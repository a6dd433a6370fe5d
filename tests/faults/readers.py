"""Readers of a task's events, and the check of what they were shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

from llm_server.orchestration.domain.output import OutputKind
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.events.history import Event
from llm_server.orchestration.service import Service
from support import three_steps

TEXT = "text.delta"
ENDS = {"completed", "failed", "cancelled"}


def unseen(service: Service, store: Store) -> Service:
    """Return the service of a process as a reader calls it: over a store whose calls are not points of attack."""
    reading = copy(service)
    reading._store = store
    return reading


class Reader:
    """A client that goes on after the last event that it has, as after a lost connection."""

    def __init__(self, ref: TaskRef) -> None:
        self.events: list[Event] = []
        self.ended = False
        self._ref = ref

    def read(self, service: Service) -> None:
        page = service.events(self._ref, after=self.events[-1].number if self.events else 0)
        self.events += page.events
        self.ended = page.ended


def wrong_events(reader: Reader, late: Reader, snapshot: Snapshot) -> Iterator[str]:
    """Yield what is wrong with what a reader was shown meanwhile, beside what a reader is shown who comes late.

    Text that was shown and never stored is known to the first one only; no other event may have its number.
    """
    for name, events in (("the reader", reader.events), ("the late reader", late.events)):
        numbers = [event.number for event in events]
        if numbers != sorted(set(numbers)):
            yield f"{name} got a number twice, or a smaller one after a larger one"
        yield from (f"{name} {what}" for what in _wrong_text(events, snapshot))
    stored = {event.number: _shown(event) for event in late.events}
    for event in reader.events:
        if stored.get(event.number, _shown(event)) != _shown(event):
            yield f"the number {event.number} was {_shown(event)[0]}, and is used again"
    if _without_text(reader.events) != _without_text(late.events):
        yield f"the reader got {_names(reader.events)}, and the late reader {_names(late.events)}"
    if snapshot.task.status.is_final:
        names = [event.name for event in reader.events]
        if not reader.ended or names[-1] != "receipt" or sum(name in ENDS for name in names[-2:]) != 1:
            yield f"the reader's stream does not end: {names[-3:]}"


def wrong_plan(shown: Sequence[Any]) -> Iterator[str]:
    """Yield what is wrong with the events of a plan of three steps (`support.three_steps`), as a client was sent them.

    A call whose worker died is made again: then only the last item of a step is its text.
    """
    numbers, names = [event["number"] for event in shown], [event["event"] for event in shown]
    if numbers != sorted(set(numbers)):
        yield "a number came twice, or after a larger one"
    if [name for name in names if name in ENDS] != ["completed"] or names[-1] != "receipt":
        yield f"ends with {names[-3:]}"
    about = {None: "everything"} | {step: step for step in three_steps.STEPS}
    for step, name in about.items():
        of_step = [event for event in shown if event.get("step") == step]
        if step and (count := [event["event"] for event in of_step].count("step.completed")) != 1:
            yield f"{step} is completed {count} times"
        pieces = [event for event in of_step if event["event"] == TEXT]
        text = "".join(piece["text"] for piece in pieces if piece["item"] == pieces[-1]["item"])
        if text != three_steps.text_about(name):
            yield f"the text of {name} is {text!r}"


def _wrong_text(events: Sequence[Event], snapshot: Snapshot) -> Iterator[str]:
    """Yield where the last item of the answer, or of a step, is not its text: with a gap, or with something twice."""
    if not snapshot.request.stream:
        return
    if snapshot.task.status is Status.COMPLETED and (text := _last_item(events, None)) != snapshot.result:
        yield f"has the answer {text!r}, which is {snapshot.result!r}"
    for key, output in snapshot.outputs.items():
        if (
            key.kind is OutputKind.STEP
            and output.error is None
            and (text := _last_item(events, key.step)) != output.text
        ):
            yield f"has the text {text!r} of {key.step}, which is {output.text!r}"


def _last_item(events: Sequence[Event], step: str | None) -> str:
    """Return the text of the last engine call for a step, or for the answer."""
    pieces = [event for event in events if event.name == TEXT and event.step == step]
    return "".join(piece.text or "" for piece in pieces if piece.item == pieces[-1].item)


def _shown(event: Event) -> tuple[object, ...]:
    return event.name, event.item, event.step, event.text


def _without_text(events: Sequence[Event]) -> list[tuple[int, str]]:
    return [(event.number, event.name) for event in events if event.name != TEXT]


def _names(events: Sequence[Event]) -> str:
    return " ".join(f"{event.number}:{event.name}" for event in events if event.name != TEXT)
