"""A caller's decision on a plan: approved or rejected, once, by the hash of the plan that was seen."""

from __future__ import annotations

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.errors import ApprovalConflict
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.tasks.change import Change

_DECISIONS = {"given": True, "refused": False}
"""What a stored approval says; one that is still awaited says nothing."""


def decide(snapshot: Snapshot, plan_hash: str, *, approve: bool, now_ms: int, due_ms: int) -> Change | None:
    """Approve or reject a task's plan; None if the same decision was made before.

    Raises:
        ApprovalConflict: no plan waits for a decision, the other decision was made, the hash is another plan's, or the
            deadline of a plan that is to be approved has passed.
    """
    task, stored = snapshot.task, snapshot.outputs.get(PLAN)
    decided = _DECISIONS.get(task.approval or "")
    if stored is None or (decided is None and not task.awaits_approval):
        raise ApprovalConflict("The task has no plan that waits for approval.")
    if plans.digest(stored.text or "") != plan_hash:
        raise ApprovalConflict("The task's plan is another one than this hash names; read the task again.")
    if decided is not None:
        if decided is not approve:
            raise ApprovalConflict(f"The task's plan was {'approved' if decided else 'rejected'} before.")
        return None
    if approve and task.is_overdue(now_ms):
        raise ApprovalConflict("The task's deadline has passed; it fails, and may be retried then.")
    return Change(after=task.approved(now_ms=now_ms, due_ms=due_ms) if approve else task.rejected(now_ms=now_ms))
