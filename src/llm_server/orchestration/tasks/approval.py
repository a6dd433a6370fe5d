"""A caller's word on a plan: approved or rejected, once, by the hash of the plan that was seen."""

from __future__ import annotations

from dataclasses import replace

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.errors import ApprovalConflict, TaskLost
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.ports import Store
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.task import TaskRef

TRIES = 3


def decide(
    store: Store, ref: TaskRef, plan_hash: str, *, approve: bool, now_ms: int, due_ms: int
) -> tuple[Snapshot, bool]:
    """Approve or reject a task's plan; the task as it is now, and whether this call moved it.

    The same word again changes nothing. Of several at once one is stored, and the others see it.

    Raises:
        TaskNotFound: no such task.
        ApprovalConflict: nothing waits for a word, the other word was given, the hash is another plan's, or the
            deadline of a plan that is to be approved has passed.
    """
    for _ in range(TRIES):
        snapshot = store.get(ref)
        if _is_decided(snapshot, plan_hash, approve=approve):
            return snapshot, False
        task = snapshot.task
        if approve and task.is_overdue(now_ms):
            raise ApprovalConflict("The task's deadline has passed; it fails, and may be retried then.")
        after = task.approved(now_ms=now_ms, due_ms=due_ms) if approve else task.rejected(now_ms=now_ms)
        try:
            store.save(task, after)
        except TaskLost:
            continue
        return replace(snapshot, task=after), True
    raise ApprovalConflict("The task is being changed; read it again.")


def _is_decided(snapshot: Snapshot, plan_hash: str, *, approve: bool) -> bool:
    task, stored = snapshot.task, snapshot.outputs.get(PLAN)
    said = {"given": True, "refused": False}.get(task.approval or "")
    if stored is None or (said is None and not task.awaits_approval):
        raise ApprovalConflict("The task has no plan that waits for approval.")
    if plans.digest(stored.text or "") != plan_hash:
        raise ApprovalConflict("The task's plan is another one than this hash names; read the task again.")
    if said is not None and said is not approve:
        raise ApprovalConflict(f"The task's plan was {'approved' if said else 'rejected'} before.")
    return said is not None
