"""What a caller does with a task after it was accepted: cancel it, retry it, delete it."""

from __future__ import annotations

from dataclasses import replace

from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.ports import Clock, Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.wakeups import WakeUps

TRIES = 5
"""How often a change is tried while a worker's saves come in between."""


BUSY = "The task is being changed; try again."


class Lifecycle:
    """The caller's word on a task, over the store."""

    def __init__(self, *, store: Store, wakeups: WakeUps, clock: Clock, sweep_ms: int) -> None:
        self._store = store
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def cancel(self, ref: TaskRef) -> Snapshot:
        """End a task that is not final; cancelled again, nothing changes.

        If a worker died after it had paid for an answer, the calls of that answer go on the receipt.

        Raises:
            TaskNotFound: no such task.
            StateConflict: it has Completed or Failed.
        """
        for _ in range(TRIES):
            snapshot = self._store.get(ref)
            if snapshot.task.status is Status.CANCELLED:
                return snapshot
            if snapshot.task.status.is_final:
                raise StateConflict(f"The task is {snapshot.task.status}; only a task that is open can be cancelled.")
            try:
                return replace(snapshot, task=self._cancelled(snapshot))
            except TaskLost:
                continue
        raise StateConflict(BUSY)

    def retry(self, ref: TaskRef, *, payer: Payer | None = None) -> Snapshot:
        """Take a Failed task up again: what is finished is kept, what failed is done again. Then wake a worker.

        Raises:
            TaskNotFound: no such task.
            StateConflict: it has not Failed, or was retried before.
            TooManyInFlight: the payer's key, for which the task counts from now on, allows no more open tasks.
        """
        for _ in range(TRIES):
            snapshot, now_ms = self._store.get(ref), self._clock()
            if snapshot.task.status is not Status.FAILED:
                raise StateConflict(f"The task is {snapshot.task.status}; only a task that has Failed can be retried.")
            deadline_ms = snapshot.request.limits.deadline_ms(now_ms)
            due_ms = now_ms + self._sweep_ms
            after = snapshot.task.retried(now_ms=now_ms, due_ms=due_ms, deadline_ms=deadline_ms, payer=payer)
            most = payer.limits.tasks_in_flight if payer else None
            try:
                self._store.retain(snapshot.task)
                self._store.save(snapshot.task, after, most_in_flight=most)
            except TaskLost:
                continue
            if after.status is Status.QUEUED:
                self._wakeups.send(ref)
            return replace(snapshot, task=after)
        raise StateConflict(BUSY)

    def delete(self, ref: TaskRef) -> None:
        """Remove a task that no worker has, with its prompt and all its texts; one that is open is cancelled first.

        Raises:
            TaskNotFound: no such task, or none any more.
            StateConflict: a worker has it.
        """
        for _ in range(TRIES):
            snapshot = self._store.get(ref)
            if snapshot.task.has_worker(self._clock()):
                raise StateConflict("A worker has the task; cancel it, and delete it when its worker has let go.")
            try:
                self._store.delete(self._ended(snapshot))
            except TaskLost:
                continue
            return
        raise StateConflict(BUSY)

    def _ended(self, snapshot: Snapshot) -> Task:
        """Store what is left to say of a task that goes: that it was cancelled, or what its dead worker paid."""
        if not snapshot.task.status.is_final:
            return self._cancelled(snapshot)
        if snapshot.unsettled is None:
            return snapshot.task
        paid = snapshot.unsettled.as_a_try()
        after = snapshot.task.settled(paid)
        self._store.save(snapshot.task, after, paid)
        return after

    def _cancelled(self, snapshot: Snapshot) -> Task:
        """Store that an open task was cancelled. Raises TaskLost."""
        orphan = snapshot.orphan and snapshot.orphan.as_a_try()
        after = snapshot.task.cancelled(now_ms=self._clock(), orphan=orphan)
        self._store.save(snapshot.task, after, orphan)
        return after
