"""Change a stored task that other writers may change too.

Read the task, decide, and save it; start again if another writer has saved it in between.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef

MAX_TRIES = 5
"""How often a change is tried when other writers save the task in between."""


class Change(Struct, frozen=True, kw_only=True):
    """The next state of a task, and the output to store with it; `max_in_flight` as in `TaskStore.save`."""

    after: Task
    output: Output | None = None
    max_in_flight: int | None = None


def apply(
    store: TaskStore, ref: TaskRef, decide: Callable[[Snapshot], Change | None]
) -> tuple[Snapshot, Change | None]:
    """Save the change that `decide` returns for the stored task. `decide` returns None to leave the task unchanged.

    Returns the task as it is stored now, and the change that was saved (None if there was none).

    Raises:
        TaskNotFound: no task has this reference.
        StateConflict: other writers changed the task during each of the five tries.
        Exception: anything that `decide` raises; nothing was saved then.
    """
    for _ in range(MAX_TRIES):
        snapshot = store.get(ref)
        change = decide(snapshot)
        if change is None:
            return snapshot, None
        output = change.output and change.output.at_rev(change.after.rev)
        try:
            store.save(snapshot.task, change.after, output, max_in_flight=change.max_in_flight)
        except TaskLost:
            continue
        return replace(snapshot, task=change.after), change
    raise StateConflict("The task is being changed; try again.", code="task_changing")
