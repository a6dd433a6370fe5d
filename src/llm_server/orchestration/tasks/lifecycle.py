"""Callers' changes to accepted tasks: approve or reject a plan, cancel, retry or delete a task."""

from __future__ import annotations

from contextlib import suppress

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.errors import StateConflict, TaskLost
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks import approval, change, engine_limits
from llm_server.orchestration.tasks.change import Change
from llm_server.orchestration.tasks.wakeups import WakeUps


class Lifecycle:
    """Makes callers' changes to tasks in the store, and wakes workers."""

    def __init__(
        self,
        *,
        store: TaskStore,
        ledger: Ledger,
        keyring: Keyring,
        fleet: Fleet,
        wakeups: WakeUps,
        clock: Clock,
        sweep_ms: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        self._keyring = keyring
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def approve(self, ref: TaskRef, plan_hash: str, *, approve: bool, payer: Payer | None = None) -> Snapshot:
        """Approve a plan and wake a worker, or reject it, which cancels its task. A repeated decision has no effect.

        From an approval on, the sources of the payer's key limit the task, too.

        Raises:
            TaskNotFound: no task has this reference.
            ApprovalConflict: as `approval.decide`.
            StateConflict: no configured engine is left that the task and the payer's key allow.
        """
        now_ms = self._clock()

        def decide(snapshot: Snapshot) -> Change | None:
            due_ms = now_ms + self._sweep_ms
            decided = approval.decide(snapshot, plan_hash, approve=approve, now_ms=now_ms, due_ms=due_ms, payer=payer)
            if decided and approve:
                engine_limits.check_key(snapshot, payer, self._fleet)
            return decided

        snapshot, saved = change.apply(self._store, ref, decide)
        if saved and approve:
            self._wakeups.send(ref, snapshot.task.priority)
        return snapshot

    def cancel(self, ref: TaskRef) -> Snapshot:
        """Cancel a task that is not final. Cancelling it again has no effect.

        If a worker died, its calls that are not on the receipt are added to the receipt.

        Raises:
            TaskNotFound: no task has this reference.
            StateConflict: the task has Completed or Failed.
        """

        def decide(snapshot: Snapshot) -> Change | None:
            status = snapshot.task.status
            if status is Status.CANCELLED:
                return None
            if status.is_final:
                raise StateConflict(f"The task is {status}; only an open task can be cancelled.", code="task_final")
            return self._cancelled(snapshot)

        return change.apply(self._store, ref, decide)[0]

    def retry(self, ref: TaskRef, *, payer: Payer | None = None) -> Snapshot:
        """Reopen a Failed task and wake a worker. Finished plan steps are kept, failed steps are done again.

        From now on the task counts for the payer's key, whose sources limit it, too.

        Raises:
            TaskNotFound: no task has this reference.
            StateConflict: the task has not Failed, or was already retried; or no configured engine is left that the
                task and the payer's key allow.
            DailyBudgetSpent, DailyBudgetReserved: the daily limit of the payer's key is spent or reserved.
            TooManyInFlight: the payer's key allows no more open tasks.
        """
        self._keyring.check_spending(payer)

        def decide(snapshot: Snapshot) -> Change:
            task, now_ms = snapshot.task, self._clock()
            if task.status is not Status.FAILED:
                message = f"The task is {task.status}; only a task that has Failed can be retried."
                raise StateConflict(message, code="task_not_failed")
            engine_limits.check_key(snapshot, payer, self._fleet)
            deadline_ms, due_ms = snapshot.request.limits.deadline_ms(now_ms), now_ms + self._sweep_ms
            after = task.retried(now_ms=now_ms, due_ms=due_ms, deadline_ms=deadline_ms, payer=payer)
            self._store.retain(task)
            return Change(after=after, max_in_flight=payer.limits.tasks_in_flight if payer else None)

        snapshot, _ = change.apply(self._store, ref, decide)
        if snapshot.task.status is Status.QUEUED:
            self._wakeups.send(ref, snapshot.task.priority)
        return snapshot

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

    def _before_deletion(self, snapshot: Snapshot) -> Change | None:
        """Return the change to store before a deletion: the cancellation, or the calls that a dead worker paid for."""
        if snapshot.task.has_worker(self._clock()):
            message = "A worker has the task; cancel it, and delete it when its worker has stopped."
            raise StateConflict(message, code="task_in_progress")
        if not snapshot.task.status.is_final:
            return self._cancelled(snapshot)
        left = snapshot.unsettled(self._clock())
        if left is None:
            return None
        self._withhold(snapshot.task)
        return Change(after=snapshot.task.settled(left), output=left)

    def _cancelled(self, snapshot: Snapshot) -> Change:
        now_ms = self._clock()
        left = snapshot.left_over(now_ms)
        if snapshot.task.has_dead_worker(now_ms):
            self._withhold(snapshot.task)
        return Change(after=snapshot.task.cancelled(now_ms=now_ms, left=left), output=left)

    def _withhold(self, task: Task) -> None:
        """Withhold what a dead worker has reserved from the task's API key."""
        if dead := KeyBudget.of(self._ledger, task):
            dead.withhold()
