"""Changes a stored task while others may change it, too: read it, decide what it becomes, save; else start again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef

TRIES = 5
"""How often a change is tried while another writer's saves come in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a task becomes, and the output to store with it; `max_in_flight` as in `TaskStore.save`."""

    after: Task
    output: Output | None = None
    max_in_flight: int | None = None


def apply(
    store: TaskStore, ref: TaskRef, decide: Callable[[Snapshot], Change | None]
) -> tuple[Snapshot, Change | None]:
    """Change a task as `decide` says of what is stored; None from it leaves the task as it is.

    Returns the task as it is now, and the change that was saved.

    Raises:
        TaskNotFound: no such task.
        StateConflict: another writer was faster five times in a row.
        Exception: whatever `decide` raises; nothing was saved then.
    """
    for _ in range(TRIES):
        snapshot = store.get(ref)
        change = decide(snapshot)
        if change is None:
            return snapshot, None
        try:
            store.save(snapshot.task, change.after, change.output, max_in_flight=change.max_in_flight)
        except TaskLost:
            continue
        return replace(snapshot, task=change.after), change
    raise StateConflict("The task is being changed; try again.")
