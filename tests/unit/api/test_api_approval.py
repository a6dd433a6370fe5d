"""A plan that waits for its caller's decision: approved or rejected once, by its hash."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from llm_server.api import views
from llm_server.orchestration.domain import plan as plans
from llm_server.orchestration.domain.errors import ApprovalConflict, InvalidInput
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import output_key
from support.deliveries import a_plan, planning
from support.in_process_server import CalledServer
from support.scripted_engine import a_catalog, an_engine
from support.scripted_service import Served

PLAN = a_plan()


def waiting(server: CalledServer) -> tuple[str, str]:
    """Create a task whose plan waits for approval; return its id and the plan's hash."""
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    return task_id, server.get(f"tasks/{task_id}").json["plan"]["hash"]


def say(server: CalledServer, word: str, task_id: str, plan_hash: str) -> tuple[int, str]:
    """Return the HTTP status, and the status of the task or the code of the error."""
    answer = server.post({"plan_hash": plan_hash}, f"tasks/{task_id}/{word}")
    return answer.status, answer.code if answer.status >= 400 else answer.json["status"]


def test_a_plan_waits_for_its_callers_decision(server: CalledServer) -> None:
    """The plan is shown, the task counts as active, and no step is called."""
    task_id, _ = waiting(server)

    task = server.get(f"tasks/{task_id}").json
    assert (task["status"], task["awaiting_approval"], task["receipt"]["calls"]) == ("Planned", True, 1)
    assert {step["status"] for step in task["plan"]["steps"]} == {"Waiting"}
    assert server.get("metrics").json["active_tasks"] == 1


def test_an_approved_plan_is_executed(server: CalledServer) -> None:
    task_id, plan_hash = waiting(server)

    assert say(server, "approve", task_id, plan_hash) == (200, "Queued")
    server.work()

    task = server.get(f"tasks/{task_id}").json
    assert (task["status"], task["awaiting_approval"]) == ("Completed", False)
    assert [a["purpose"] for a in task["attempts"]].count("plan") == 1
    assert say(server, "approve", task_id, plan_hash) == (200, "Completed")


def test_a_rejected_plan_cancels_its_task(server: CalledServer) -> None:
    """The task is Cancelled and not Failed, because the caller decided; the plan stays readable."""
    task_id, plan_hash = waiting(server)

    assert say(server, "reject", task_id, plan_hash) == (200, "Cancelled")
    assert say(server, "reject", task_id, plan_hash) == (200, "Cancelled")
    assert say(server, "approve", task_id, plan_hash) == (409, "plan_already_decided")
    assert {s["status"] for s in server.get(f"tasks/{task_id}").json["plan"]["steps"]} == {"Skipped"}


def test_a_decision_with_the_hash_of_another_plan_is_refused(server: CalledServer) -> None:
    """A caller can approve only the plan that it has seen."""
    task_id, plan_hash = waiting(server)

    refused = {say(server, word, task_id, wrong) for word in ("approve", "reject") for wrong in ("", "0" * 64)}
    assert refused == {(409, "plan_changed")}
    assert say(server, "approve", task_id, plan_hash) == (200, "Queued")
    assert say(server, "reject", task_id, plan_hash) == (409, "plan_already_decided")


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_a_decision_without_a_waiting_plan_is_refused(server: CalledServer, word: str) -> None:
    """409 for a task without plan approval, 404 for an unknown task."""
    task_id = server.created()

    assert say(server, word, task_id, "x") == (409, "no_plan_awaiting_approval")
    assert say(server, word, "none", "x") == (404, "task_not_found")
    assert "known are plan_hash" in server.post({"plan_hash": "x", "hash": "x"}, f"tasks/{task_id}/{word}").detail


def test_only_a_decision_changes_a_waiting_plan(served: Served) -> None:
    """A sweep, a restart and a stray message leave it as it is."""
    ref = served.submit(mode=Mode.PLAN, plan_approval=True)
    served.engine._answers.clear()
    served.engine._answers.append(PLAN)
    served.work()
    before = served.store.peek(ref)
    assert (before.status, before.owner, before.lease_ms) == (Status.PLANNED, "", 0)
    served.clock.pass_s(10 * 24 * 3600)

    assert (served.service.sweep(), served.store.end_leases(served.clock())) == (0, 0)
    served.service.process(ref, owner="stray")
    assert served.store.peek(ref) == before


def test_a_waiting_plan_fails_at_its_deadline(served: Served) -> None:
    """The deadline also counts while the plan waits for its caller."""
    ref = served.submit(mode=Mode.PLAN, plan_approval=True, limits=Limits(deadline_s=600))
    served.engine._answers.clear()
    served.engine._answers.append(PLAN)
    served.work()
    served.clock.pass_s(600)

    assert (served.service.sweep(), served.work()) == (0, 0)
    assert served.get(ref).task.error == "The deadline of 600 s has passed."


def test_a_plan_cannot_be_approved_after_its_deadline(served: Served) -> None:
    """The answer "Queued" would be wrong.

    After a retry the plan waits again, and an earlier approval can be repeated.
    """
    ref = served.submit(mode=Mode.PLAN, plan_approval=True, limits=Limits(deadline_s=600))
    served.engine._answers.clear()
    served.engine._answers.append(PLAN)
    served.work()
    plan_hash = plans.digest(served.get(ref).outputs[output_key("PLAN")].text or "")
    served.clock.pass_s(600)

    with pytest.raises(ApprovalConflict, match="deadline has passed"):
        served.service.approve(ref, plan_hash, approve=True)
    assert served.get(ref).task.awaits_approval
    served.service.sweep()
    served.service.retry(ref)
    served.clock.pass_s(599)
    assert served.service.approve(ref, plan_hash, approve=True).task.status is Status.QUEUED
    served.clock.pass_s(1)
    assert served.service.approve(ref, plan_hash, approve=True).task.status is Status.QUEUED


def test_a_plan_can_be_rejected_after_its_deadline(served: Served) -> None:
    """Rejecting cancels the task, which would fail anyway."""
    ref = served.submit(mode=Mode.PLAN, plan_approval=True, limits=Limits(deadline_s=600))
    served.engine._answers.clear()
    served.engine._answers.append(PLAN)
    served.work()
    plan_hash = plans.digest(served.get(ref).outputs[output_key("PLAN")].text or "")
    served.clock.pass_s(600)

    assert served.service.approve(ref, plan_hash, approve=False).task.status is Status.CANCELLED


def test_concurrent_approvals_count_once(server: CalledServer) -> None:
    """All approvals get the same answer, and the plan is executed once."""
    task_id, plan_hash = waiting(server)
    together = threading.Barrier(4)

    def approve(_: int) -> None:
        together.wait()
        server.service.approve(TaskRef("local", task_id), plan_hash, approve=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(approve, range(4)))
    rev = server.store.peek(TaskRef("local", task_id)).rev
    server.work()

    task = server.get(f"tasks/{task_id}").json
    assert task["status"] == "Completed"
    assert len({a["purpose"] for a in task["attempts"] if a["purpose"].startswith("step")}) == len(
        task["plan"]["steps"]
    )
    assert rev == 4


def approved(server: CalledServer, task_id: str, plan_hash: str, **limit: object) -> tuple[int, str]:
    answer = server.post({"plan_hash": plan_hash, **limit}, f"tasks/{task_id}/approve")
    return answer.status, answer.detail if answer.status >= 400 else answer.json["status"]


def test_a_plan_that_waits_has_a_quote(server: CalledServer) -> None:
    """A task that does not wait has none."""
    task_id, plan_hash = waiting(server)
    shown = server.get(f"tasks/{task_id}").json["quote"]
    approved(server, task_id, plan_hash)

    assert (shown["ceiling_microusd"], shown["worst_case_microusd"], shown["sample"]) == (0, None, 0)
    assert server.get(f"tasks/{task_id}").json["quote"] is None


def test_a_plan_that_waits_is_polled_without_reading_the_quotes_sample_again(server: CalledServer) -> None:
    """A new state is looked at anew."""
    looks, newest = list[str](), server.store.newest

    def counted(tenant: str, **asked: Any) -> Any:
        looks.append(tenant)
        return newest(tenant, **asked)

    server.store.newest = counted  # type: ignore[method-assign]
    task_id, _ = waiting(server)
    polled = [server.get(f"tasks/{task_id}").json["quote"] for _ in range(3)]
    after_three = len(looks)
    other, _ = waiting(server)
    server.get(f"tasks/{other}")

    assert polled[0] == polled[1] == polled[2]
    assert (after_three, len(looks)) == (1, 2)


def a_costly_plan(served: Served, limit: float | None = None) -> tuple[TaskRef, str]:
    """Let a plan wait whose call cost 50 micro-USD."""
    served.engine = planning()
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit("Build it.", mode=Mode.PLAN, plan_approval=True, limits=Limits(max_cost_usd=limit))
    served.work()
    return ref, plans.digest(served.get(ref).outputs[output_key("PLAN")].text or "")


def test_an_approval_binds_the_task_to_its_limit(served: Served) -> None:
    """The plan's call counts; a step that could cost more is not called, after a retry neither."""
    ref, plan_hash = a_costly_plan(served)
    served.service.approve(ref, plan_hash, approve=True, max_cost_microusd=60)
    served.work()
    first = served.get(ref)
    served.service.retry(ref)
    served.work()

    assert (first.task.status, first.task.receipt.cost_microusd) == (Status.FAILED, 50)
    assert "max_cost_usd" in str(first.task.error)
    assert served.get(ref).task.receipt.cost_microusd == 50
    assert views.detail(first).limits.max_cost_usd == 0.00006


def test_the_quote_of_a_plan_is_what_the_limit_leaves(served: Served) -> None:
    ref, _ = a_costly_plan(served, limit=0.5)
    quote = served.service.quote_of_plan(served.get(ref))

    assert quote.ceiling_microusd == 500_000 - 50


def test_the_limit_of_an_approval_lies_between_the_cost_so_far_and_the_earlier_limit(served: Served) -> None:
    ref, plan_hash = a_costly_plan(served, limit=0.5)
    approve = partial(served.service.approve, ref, plan_hash, approve=True)

    with pytest.raises(InvalidInput, match=r"must not be above the task's limit of USD 0\.5\."):
        approve(max_cost_microusd=500_001)
    with pytest.raises(InvalidInput, match=r"must not be below the USD 0\.00005 that count against it already"):
        approve(max_cost_microusd=49)
    assert served.get(ref).task.awaits_approval
    assert approve(max_cost_microusd=500_000).task.approval == "given"


def test_an_approval_with_another_limit_is_not_the_same_approval(served: Served) -> None:
    ref, plan_hash = a_costly_plan(served)
    approve = partial(served.service.approve, ref, plan_hash, approve=True)
    approve(max_cost_microusd=900)

    assert approve(max_cost_microusd=900).task == approve().task
    with pytest.raises(ApprovalConflict, match="already approved with another max_cost_usd"):
        approve(max_cost_microusd=800)
    assert served.get(ref).max_cost_microusd == 900


def test_the_lower_of_both_limits_holds(served: Served) -> None:
    ref, plan_hash = a_costly_plan(served, limit=0.5)
    served.service.approve(ref, plan_hash, approve=True, max_cost_microusd=900)

    assert served.get(ref).max_cost_microusd == 900


def test_the_limit_of_an_approval_is_checked_over_http(server: CalledServer) -> None:
    task_id, plan_hash = waiting(server)

    for wrong in (0, -1, 10_001, "much", True):
        status, detail = approved(server, task_id, plan_hash, max_cost_usd=wrong)
        assert (status, "max_cost_usd" in detail) == (422, True), wrong
    assert server.post({"plan_hash": plan_hash, "max_cost_usd": 1}, f"tasks/{task_id}/reject").status == 422
    assert approved(server, task_id, plan_hash, max_cost_usd=0.25) == (200, "Queued")
    assert server.get(f"tasks/{task_id}").json["limits"]["max_cost_usd"] == 0.25
