"""The task: who may claim it, what each transition counts, and that a final state never changes."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.errors import IllegalTransition, TaskBusy, TaskFinished
from llm_server.orchestration.domain.output import last_answered
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from support.builders import (
    LEASE_MS,
    NOW_MS,
    a_failed_attempt,
    a_failure,
    a_snapshot,
    a_task,
    an_attempt,
    an_output,
    claimed,
)

ENDED = {
    "Completed": claimed(a_task("t1")).completed(an_output("RES#1")),
    "Failed": claimed(a_task("t1")).failed(a_failure()),
    "Cancelled": a_task("t1", status=Status.CANCELLED),
}


def test_a_task_reference_survives_writing_and_parsing() -> None:
    """Queue messages contain only this text."""
    assert TaskRef.parse(str(TaskRef("acme", "t1"))) == TaskRef("acme", "t1")


@pytest.mark.parametrize("text", ["", "t1", "/t1", "acme/", "acme/t1/x", "/", "//"])
def test_a_malformed_task_reference_is_refused(text: str) -> None:
    """A malformed message is detected before the store is read."""
    with pytest.raises(ValueError, match="<tenant>/<task_id>"):
        TaskRef.parse(text)


def test_a_delivery_is_counted_when_it_is_claimed() -> None:
    """Otherwise a prompt that crashes every worker would be delivered without end."""
    task = claimed(a_task(), owner="w7")

    assert (task.status, task.fence, task.deliveries, task.owner) == (Status.PROCESSING, 1, 1, "w7")
    assert task.lease_ms == NOW_MS + LEASE_MS


def test_a_claim_is_refused_until_the_lease_ends() -> None:
    """One worker owns a task; a crashed worker's task is not lost."""
    first = claimed(a_task())

    with pytest.raises(TaskBusy):
        claimed(first, now_ms=first.lease_ms - 1)
    assert claimed(first, now_ms=first.lease_ms).fence == 2


def test_a_task_with_a_plan_is_planned_while_a_worker_has_it() -> None:
    """A second delivery does not show the status as Processing again."""
    assert claimed(a_task(), has_plan=True).status is Status.PLANNED


@pytest.mark.parametrize("status", ENDED)
def test_a_final_task_is_never_claimed(status: str) -> None:
    """A late wake-up has no effect."""
    with pytest.raises(TaskFinished):
        claimed(ENDED[status])


@pytest.mark.parametrize("status", ENDED)
def test_a_final_task_never_changes(status: str) -> None:
    """A worker that finishes late cannot change it."""
    task = ENDED[status]

    with pytest.raises(IllegalTransition, match=status):
        task.completed(an_output("RES#9"))
    with pytest.raises(IllegalTransition, match=status):
        task.failed(a_failure())
    with pytest.raises(IllegalTransition, match=status):
        task.progressed(an_output("PLAN"))
    with pytest.raises(IllegalTransition, match=status):
        task.released(a_failure(error=None), due_ms=NOW_MS)


def test_each_transition_increases_the_revision_by_one() -> None:
    """A store saves a state only after its predecessor, so no revision may be skipped or repeated."""
    task = a_task()
    states = [task, claimed(task)]
    states.append(states[-1].progressed(an_output("PLAN")))
    states.append(states[-1].released(a_failure(error=None), due_ms=NOW_MS))
    states.append(claimed(states[-1]))
    states.append(states[-1].abandoned(now_ms=NOW_MS))
    states.append(states[-1].completed(an_output("RES#2")))

    assert [state.rev for state in states] == [1, 2, 3, 4, 5, 6, 7]


def test_progress_resets_the_count_of_deliveries() -> None:
    """A plan that needs many deliveries is not given up while its steps complete."""
    task = claimed(a_task(deliveries=6)).progressed(an_output("STEP#a"))

    assert (task.status, task.deliveries, task.receipt.calls) == (Status.PLANNED, 0, 1)


def test_a_released_task_has_no_owner_and_keeps_its_costs() -> None:
    """The next worker does not wait for a lease, and failed calls stay on the receipt."""
    task = claimed(a_task()).released(a_failure(error=None), due_ms=NOW_MS + 5)

    assert (task.status, task.owner, task.lease_ms, task.due_ms) == (Status.QUEUED, "", 0, NOW_MS + 5)
    assert (task.deliveries, task.receipt.failed_calls) == (1, 1)
    assert claimed(task).fence == 2


def test_a_claim_without_an_engine_call_does_not_count_as_a_delivery() -> None:
    """Waiting for a busy engine must not use up a task's deliveries."""
    task = claimed(a_task()).released(a_failure(error=None), due_ms=NOW_MS, counted=False)

    assert (task.deliveries, task.fence) == (0, 1)
    assert task.released(a_failure(error=None), due_ms=NOW_MS, counted=False).deliveries == 0


def test_a_completed_task_records_its_answer_and_its_engine() -> None:
    """The engine of the last answered call, even if another call failed after it."""
    answer = an_output("RES#1", attempts=(an_attempt(engine="first"), a_failed_attempt(engine="last")))
    task = claimed(a_task()).completed(answer)

    assert (task.answer_fence, task.engine, task.finished_ms) == (1, "first", answer.created_ms)
    assert task.error is None


def test_a_failed_task_records_its_error() -> None:
    """The receipt includes the failed call."""
    task = claimed(a_task()).failed(a_failure(error="No engine answered."))

    assert (task.status, task.error, task.answer_fence) == (Status.FAILED, "No engine answered.", None)
    assert task.receipt.failed_calls == 1


def test_an_abandoned_task_is_due_at_once() -> None:
    """After a restart of the only process, tasks do not wait for the leases of its dead workers."""
    task = claimed(a_task()).abandoned(now_ms=NOW_MS + 7)

    assert (task.due_ms, task.lease_ms) == (NOW_MS + 7, NOW_MS + 7)
    assert claimed(task, now_ms=NOW_MS + 7).fence == 2


def test_the_result_is_the_answer_of_the_claim_that_finished() -> None:
    """An answer that an earlier claim left behind is ignored."""
    task = claimed(claimed(a_task()), now_ms=NOW_MS + LEASE_MS).completed(an_output("RES#2", "Mine."))
    snapshot = a_snapshot(task, None, an_output("RES#1", "Stale."), an_output("RES#2", "Mine."))

    assert snapshot.result == "Mine."
    assert snapshot.orphan is None
    assert len(snapshot.attempts) == 1


def test_an_unfinished_task_has_no_result() -> None:
    """An answer that is stored but not yet adopted is not shown."""
    snapshot = a_snapshot(claimed(a_task()), None, an_output("RES#1"))

    assert snapshot.result is None
    assert snapshot.attempts == []


def test_the_newest_answer_of_an_unfinished_task_is_the_orphan() -> None:
    """It is already paid for; plans and steps do not count as answers."""
    older, newer = an_output("RES#1", created_ms=NOW_MS), an_output("RES#2", created_ms=NOW_MS + 1)

    assert a_snapshot(claimed(a_task()), None, newer, older, an_output("PLAN")).orphan == newer
    assert a_snapshot(claimed(a_task()), None, an_output("STEP#a")).orphan is None


def test_attempts_are_listed_in_the_order_they_were_made() -> None:
    """The order does not depend on the record that holds them."""
    late, early = an_attempt(started_ms=NOW_MS + 9), an_attempt(started_ms=NOW_MS + 1)
    snapshot = a_snapshot(None, None, an_output("PLAN", attempts=(late,)), an_output("STEP#a", attempts=(early,)))

    assert snapshot.attempts == [early, late]


def test_attempts_of_the_same_millisecond_are_listed_as_plan_steps_synthesis() -> None:
    """The order does not depend on the order in which a store returns the records."""
    keys = ["RES#1", "STEP#a", "PLAN"]
    outputs = [an_output(key, attempts=(an_attempt(purpose=key),)) for key in keys]
    task = claimed(a_task()).completed(outputs[0])

    assert [attempt.purpose for attempt in a_snapshot(task, None, *outputs).attempts] == ["PLAN", "STEP#a", "RES#1"]


def test_a_task_without_an_answered_call_has_no_engine() -> None:
    """Failed calls do not count as answers."""
    assert last_answered([a_failed_attempt()]) is None


@pytest.mark.parametrize("status", list(Status))
def test_each_status_is_either_waiting_or_active_or_final(status: Status) -> None:
    """So the gauges and the final counts together cover every task once."""
    assert [status is Status.QUEUED, status.is_active, status.is_final].count(True) == 1
