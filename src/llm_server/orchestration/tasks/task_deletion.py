"""Deletes a task, after it has put on the receipt what its worker paid for; cancels an open task first."""

from __future__ import annotations

from contextlib import suppress

from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks import change
from llm_server.orchestration.tasks.change import Change


class TaskDeletion:
    """Cancels and deletes tasks in the store."""

    def __init__(self, store: TaskStore, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    def delete(self, ref: TaskRef) -> None:
        """Remove a task that no worker has, with its prompt and all its texts. An open task is cancelled first.

        Raises:
            TaskNotFound: no task has this reference, or it was deleted before.
            StateConflict: a worker has the task, or other writers keep changing it.
        """
        for _ in range(change.MAX_TRIES):
            snapshot, _ = change.apply(self._store, ref, self._before_deletion)
            with suppress(TaskLost):  # another writer changed it in between
                self._store.delete(snapshot.task)
                return
        raise StateConflict("The task is being changed; try again.", code="task_changing")

    def cancelled(self, snapshot: Snapshot) -> Change:
        """Return the change that cancels an open task. Withhold what a dead worker has reserved for it."""
        now_ms = self._clock()
        left = snapshot.left_over(now_ms)
        if snapshot.task.has_dead_worker(now_ms):
            self._withhold(snapshot.task)
        return Change(after=snapshot.task.cancelled(now_ms=now_ms, left=left), output=left)

    def _before_deletion(self, snapshot: Snapshot) -> Change | None:
        """Return the change to store before a deletion: the cancellation, or the calls that a dead worker paid for."""
        if snapshot.task.has_worker(self._clock()):
            message = "A worker has the task; cancel it, and delete it when its worker has stopped."
            raise StateConflict(message, code="task_in_progress")
        if not snapshot.task.status.is_final:
            return self.cancelled(snapshot)
        left = snapshot.unsettled(self._clock())
        if left is None:
            return None
        self._withhold(snapshot.task)
        return Change(after=snapshot.task.settled(left), output=left)

    def _withhold(self, task: Task) -> None:
        """Withhold what a dead worker has reserved from the task's API key."""
        if dead := KeyBudget.of(self._ledger, task):
            dead.withhold()
