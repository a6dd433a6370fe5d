"""What a caller does with a task after it was accepted: approve or reject its plan, cancel, retry or delete it."""

from __future__ import annotations

from contextlib import suppress

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.ports import Clock, TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks import approval, change
from llm_server.orchestration.tasks.change import Change
from llm_server.orchestration.tasks.wakeups import WakeUps


class Lifecycle:
    """A caller's changes of a task, over the store."""

    def __init__(self, *, store: TaskStore, keyring: Keyring, wakeups: WakeUps, clock: Clock, sweep_ms: int) -> None:
        self._store = store
        self._keyring = keyring
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def approve(self, ref: TaskRef, plan_hash: str, *, approve: bool) -> Snapshot:
        """Let a plan that waits be carried out, or cancel its task. The same decision again changes nothing.

        Raises:
            TaskNotFound: no such task.
            ApprovalConflict: as `approval.decide`.
        """
        now_ms = self._clock()

        def decide(snapshot: Snapshot) -> Change | None:
            due_ms = now_ms + self._sweep_ms
            return approval.decide(snapshot, plan_hash, approve=approve, now_ms=now_ms, due_ms=due_ms)

        snapshot, saved = change.apply(self._store, ref, decide)
        if saved and approve:
            self._wakeups.send(ref)
        return snapshot

    def cancel(self, ref: TaskRef) -> Snapshot:
        """End a task that is not final; cancelled again, nothing changes.

        If a worker died after it had paid for an answer, the calls of that answer go on the receipt.

        Raises:
            TaskNotFound: no such task.
            StateConflict: it has Completed or Failed.
        """

        def decide(snapshot: Snapshot) -> Change | None:
            status = snapshot.task.status
            if status is Status.CANCELLED:
                return None
            if status.is_final:
                raise StateConflict(f"The task is {status}; only a task that is open can be cancelled.")
            return self._cancelled(snapshot)

        return change.apply(self._store, ref, decide)[0]

    def retry(self, ref: TaskRef, *, payer: Payer | None = None) -> Snapshot:
        """Take a Failed task up again: what is finished is kept, what failed is done again. Then wake a worker.

        Raises:
            TaskNotFound: no such task.
            StateConflict: it has not Failed, or was retried before.
            QuotaExceeded: the money of the payer's day is spent.
            TooManyInFlight: the payer's key, for which the task counts from now on, allows no more open tasks.
        """
        self._keyring.check_spending(payer)

        def decide(snapshot: Snapshot) -> Change:
            task, now_ms = snapshot.task, self._clock()
            if task.status is not Status.FAILED:
                raise StateConflict(f"The task is {task.status}; only a task that has Failed can be retried.")
            deadline_ms, due_ms = snapshot.request.limits.deadline_ms(now_ms), now_ms + self._sweep_ms
            after = task.retried(now_ms=now_ms, due_ms=due_ms, deadline_ms=deadline_ms, payer=payer)
            self._store.retain(task)
            return Change(after=after, max_in_flight=payer.limits.tasks_in_flight if payer else None)

        snapshot, _ = change.apply(self._store, ref, decide)
        if snapshot.task.status is Status.QUEUED:
            self._wakeups.send(ref)
        return snapshot

    def delete(self, ref: TaskRef) -> None:
        """Remove a task that no worker has, with its prompt and all its texts; one that is open is cancelled first.

        Raises:
            TaskNotFound: no such task, or none any more.
            StateConflict: a worker has it.
        """
        for _ in range(change.TRIES):
            snapshot, _ = change.apply(self._store, ref, self._before_deletion)
            with suppress(TaskLost):  # it was changed since
                self._store.delete(snapshot.task)
                return
        raise StateConflict("The task is being changed; try again.")

    def _before_deletion(self, snapshot: Snapshot) -> Change | None:
        """What is left to store of a task that is deleted next: that it was cancelled, or what its dead worker paid."""
        if snapshot.task.has_worker(self._clock()):
            raise StateConflict("A worker has the task; cancel it, and delete it when its worker has let go.")
        if not snapshot.task.status.is_final:
            return self._cancelled(snapshot)
        if snapshot.unsettled is None:
            return None
        paid = snapshot.unsettled.as_a_try()
        return Change(after=snapshot.task.settled(paid), output=paid)

    def _cancelled(self, snapshot: Snapshot) -> Change:
        orphan = snapshot.orphan and snapshot.orphan.as_a_try()
        return Change(after=snapshot.task.cancelled(now_ms=self._clock(), orphan=orphan), output=orphan)
