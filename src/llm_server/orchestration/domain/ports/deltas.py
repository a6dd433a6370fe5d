"""The ports for the pieces of text (deltas) that an engine writes while a streamed task is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from llm_server.orchestration.domain.task import TaskRef


class Delta(Struct, frozen=True, kw_only=True):
    """A piece of the text that an engine writes. `at_ms` is in Unix milliseconds.

    `number` is that of its event. `item` is the number of the event that began the engine call; the deltas of an item,
    in the order of their numbers, are the text of that call. `step` is the step that the call is made for, if any.
    """

    number: int
    item: int
    text: str
    at_ms: int
    step: str = ""


class Pace(Struct, frozen=True, kw_only=True):
    """How often the deltas of a claim are stored. The first ones are stored at once.

    Later ones are stored when they have `max_bytes` in UTF-8, or when the oldest has waited for `max_wait_s` seconds.
    """

    max_bytes: int
    max_wait_s: float


class DeltaStore(Protocol):
    """The deltas of streamed tasks. They belong to the texts of a task: they are deleted and expire with them."""

    def pace(self) -> Pace:
        """Return how often deltas should be stored here."""
        ...

    def append(self, ref: TaskRef, group: Sequence[Delta]) -> None:
        """Store deltas that follow one another as one record. Storing the same ones again has no further effect.

        They are of one revision of the task's state. A store may join those of one item that follow one another.

        Raises:
            TaskLost: the task's state has another revision, or the task is gone; not every store checks this.
        """
        ...

    def deltas(self, ref: TaskRef, *, after: int = 0) -> list[Delta]:
        """Return the stored deltas of a task with numbers above `after`, in the order of their numbers."""
        ...


class LiveText(Protocol):
    """Shows deltas to the readers in this process before they are stored."""

    def publish(self, ref: TaskRef, delta: Delta) -> None:
        """Tell the readers of a task. Must return at once."""
        ...


class NoLiveText:
    """Tells no readers: those of another process read what is stored."""

    def publish(self, ref: TaskRef, delta: Delta) -> None:
        """Do nothing."""
