"""Finds the task of a POST that a client library repeats without an Idempotency-Key, so that it is not paid twice.

OpenAI's libraries repeat a POST up to twice when they get no answer, and number the repeats. Nothing else says which
POST is repeated, so it is found by caller and body. Each POST is taken over once by each number: two equal POSTs with
two repeats are two tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.ports.repeats import Original, RepeatStore
from llm_server.orchestration.domain.ports.tasks import SweepIndex
from llm_server.orchestration.domain.task import Task, TaskRef

BACKOFF_S = 130
"""How long a client may wait before it repeats a POST: the longest Retry-After that it obeys is 120 s."""


class Repeatable(Struct, frozen=True, kw_only=True):
    """A POST that may be repeated, or is a repeat.

    `fingerprint` is a hash of the caller, the path and the body. `number` is 0 for a first POST, else that of the
    repeat. `read_timeout_s` is how long the client waits for an answer.
    """

    fingerprint: str
    number: int
    read_timeout_s: float

    def original(self, task_id: str, now_ms: int) -> Original:
        """Return what is stored of this POST, which makes a task of its own."""
        until_ms = now_ms + int((self.read_timeout_s + BACKOFF_S) * 1000)
        return Original(task_id=task_id, at_ms=now_ms, until_ms=until_ms, repeats=self.number)


class TakeOverStore(RepeatStore, SweepIndex, Protocol):
    """The part of the store that finds the task of a repeated POST."""


def taken_over(store: TakeOverStore, tenant: str, post: Repeatable, taker: str, now_ms: int) -> Iterator[str]:
    """Take over originals of a repeat, one after the other, and yield the ids of their tasks.

    `taker` is an id of this POST alone. A task may be not stored: its POST was cut off before, or it was deleted. POSTs
    whose last repeat has the number before this one come first, and open tasks before final ones.
    """
    found = [o for o in store.originals(tenant, post.fingerprint, now_ms=now_ms) if o.repeats < post.number]
    tasks = store.peek_each([TaskRef(tenant, original.task_id) for original in found]) if found else {}

    def order(original: Original) -> tuple[int, bool, int]:
        task: Task | None = tasks.get(TaskRef(tenant, original.task_id))
        return -original.repeats, task is not None and task.status.is_final, original.at_ms

    for original in sorted(found, key=order):
        if store.swap_original(tenant, post.fingerprint, original, replace(original, repeats=post.number, taker=taker)):
            yield original.task_id
