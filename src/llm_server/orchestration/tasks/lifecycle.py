"""Callers' changes to accepted tasks: approve or reject a plan, cancel, retry or delete a task."""

from __future__ import annotations

from llm_server.orchestration.access.keyring import Keyring
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.errors import StateConflict
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks import approval, change, engine_limits
from llm_server.orchestration.tasks.change import Change
from llm_server.orchestration.tasks.task_deletion import TaskDeletion
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
        self._deletion = TaskDeletion(store, ledger, clock)
        self._fleet = fleet
        self._keyring = keyring
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def approve(
        self,
        ref: TaskRef,
        plan_hash: str,
        *,
        approve: bool,
        payer: Payer | None = None,
        max_cost_microusd: int | None = None,
    ) -> Snapshot:
        """Approve a plan and wake a worker, or reject it, which cancels its task. A repeated decision has no effect.

        From an approval on, the sources of the payer's key and `max_cost_microusd` limit the task, too.

        Raises:
            InvalidInput: as `approval.decide`.
            TaskNotFound: no task has this reference.
            ApprovalConflict: as `approval.decide`.
            StateConflict: no configured engine is left that the task and the payer's key allow.
        """
        now_ms = self._clock()

        def decide(snapshot: Snapshot) -> Change | None:
            due_ms = now_ms + self._sweep_ms
            decided = approval.decide(
                snapshot,
                plan_hash,
                approve=approve,
                now_ms=now_ms,
                due_ms=due_ms,
                payer=payer,
                max_cost_microusd=max_cost_microusd,
            )
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
            return self._deletion.cancelled(snapshot)

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
        self._deletion.delete(ref)
