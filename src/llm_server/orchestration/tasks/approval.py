"""A caller's decision on a plan: approve or reject it once, naming the plan by its hash."""

from __future__ import annotations

from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.api_key import Payer
from llm_server.orchestration.domain.errors import ApprovalConflict, InvalidInput
from llm_server.orchestration.domain.output import PLAN
from llm_server.orchestration.domain.receipt import usd
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.tasks.change import Change


def decide(
    snapshot: Snapshot,
    plan_hash: str,
    *,
    approve: bool,
    now_ms: int,
    due_ms: int,
    payer: Payer | None = None,
    max_cost_microusd: int | None = None,
) -> Change | None:
    """Return the change that approves or rejects a task's plan; None if the same decision was made before.

    An approved task is limited to the sources of the payer's key, too, and to `max_cost_microusd`.

    Raises:
        InvalidInput: `max_cost_microusd` is above the task's limit, or below what the task has cost so far.
        ApprovalConflict: no plan waits for a decision, the opposite decision was made, the hash belongs to another
            plan, or the plan cannot be approved because the task's deadline has passed.
    """
    task, stored = snapshot.task, snapshot.outputs.get(PLAN)
    is_decided = task.approval in ("given", "refused")
    if stored is None or not (is_decided or task.awaits_approval):
        raise ApprovalConflict("The task has no plan that waits for approval.", code="no_plan_awaiting_approval")
    if plans.digest(stored.text or "") != plan_hash:
        raise ApprovalConflict(
            "The plan_hash is not that of the task's plan; read the task again.", code="plan_changed"
        )
    if is_decided:
        was_approved = task.approval == "given"
        if was_approved != approve:
            decision = "approved" if was_approved else "rejected"
            raise ApprovalConflict(f"The task's plan was already {decision}.", code="plan_already_decided")
        if max_cost_microusd not in (None, task.max_cost_microusd):
            raise ApprovalConflict(
                "The task's plan was already approved with another max_cost_usd.", code="plan_already_decided"
            )
        return None
    if approve and task.is_overdue(now_ms):
        raise ApprovalConflict(
            "The task's deadline has passed; the task will fail, and can be retried then.", code="deadline_passed"
        )
    if approve:
        _check_limit(snapshot, max_cost_microusd)
        after = task.approved(now_ms=now_ms, due_ms=due_ms, payer=payer, max_cost_microusd=max_cost_microusd)
        return Change(after=after)
    return Change(after=task.rejected(now_ms=now_ms))


def _check_limit(snapshot: Snapshot, max_cost_microusd: int | None) -> None:
    """Check the limit with which a plan is approved. Raises InvalidInput, as `decide`."""
    if max_cost_microusd is None:
        return
    earlier, spent = snapshot.max_cost_microusd, snapshot.spent_microusd
    if earlier is not None and max_cost_microusd > earlier:
        raise InvalidInput(
            "max_cost_usd", f"The max_cost_usd must not be above the task's limit of USD {usd(earlier)}."
        )
    if max_cost_microusd < spent:
        message = f"The max_cost_usd must not be below the USD {usd(spent)} that count against it already."
        raise InvalidInput("max_cost_usd", message)
