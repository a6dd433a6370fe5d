"""Counters are the sum of the tasks' changes, and the nine figures follow from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.counters import Counters, change, day_of, summarise
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_failed_attempt, a_failure, a_task, an_attempt, an_output, claimed

NINE = {
    "server_status",
    "llm_status",
    "tokens_per_second",
    "average_response_time",
    "total_requests",
    "active_tasks",
    "queue_length",
    "success_rate",
    "api_costs",
}


def test_nothing_done_yet_gives_nulls_and_zeros() -> None:
    """The nine fields of the contract, no more and no less; a rate of nothing is null."""
    figures = summarise(Counters(), {})

    assert set(figures) == NINE
    assert [figures[name] for name in ("tokens_per_second", "average_response_time", "success_rate")] == [None] * 3
    assert (figures["total_requests"], figures["active_tasks"], figures["queue_length"]) == (0, 0, 0)
    assert (figures["api_costs"], figures["server_status"]) == (0.0, "offline")


def test_the_figures_are_in_the_units_of_the_contract() -> None:
    """Tokens a second of generation, mean seconds of a call, a percentage, USD."""
    counters = Counters(
        total=9, queued=2, active=3, completed=3, failed=1, cancelled=5, calls=4, api_calls=4,
        tokens_out=300, duration_ms=6_000, cost_microusd=1_250_000,
    )  # fmt: skip

    figures = summarise(counters, {"a": "cooling", "b": "online"})

    assert (figures["tokens_per_second"], figures["average_response_time"]) == (50.0, 1.5)
    assert (figures["success_rate"], figures["api_costs"]) == (75.0, 1.25)
    assert (figures["total_requests"], figures["active_tasks"], figures["queue_length"]) == (9, 3, 2)
    assert (figures["server_status"], figures["llm_status"]) == ("online", {"a": "cooling", "b": "online"})


def test_costs_that_nobody_knows_are_null() -> None:
    """Only unpriced calls: no figure is better than a wrong 0; one priced call is a figure."""
    assert summarise(Counters(api_calls=2, unpriced_calls=2), {})["api_costs"] is None
    assert summarise(Counters(api_calls=2, unpriced_calls=1, cost_microusd=3), {})["api_costs"] == 0.000003


def test_every_engine_cooling_is_offline() -> None:
    """Online means that one engine can take work now."""
    assert summarise(Counters(), {"a": "cooling", "b": "locked"})["server_status"] == "offline"


def test_a_day_is_utc() -> None:
    """Spending is kept by day, the same on every machine."""
    assert day_of(NOW_MS) == "2025-10-09"
    assert day_of(1_767_225_599_999) == "2025-12-31"
    assert day_of(1_767_225_600_000) == "2026-01-01"


def test_an_acceptance_counts_once() -> None:
    """And a step inside the same status changes no gauge."""
    task = a_task()
    worked = claimed(task)

    assert change(None, task).nonzero() == {"total": 1, "queued": 1}
    assert change(task, worked).nonzero() == {"queued": -1, "active": 1}
    assert change(worked, claimed(worked, now_ms=worked.lease_ms)).nonzero() == {}


walk = st.lists(st.sampled_from(["claim", "progress", "release", "complete", "fail"]), max_size=12)


@given(st.lists(walk, max_size=5))
def test_the_changes_add_up_to_the_tasks(walks: list[list[str]]) -> None:
    """After any history of any tasks the counters agree with the rows, receipts included."""
    sums, ends = Counters(), []
    for steps in walks:
        states = _history(steps)
        for before, after in zip([None, *states], states, strict=False):
            sums += change(before, after)
        ends.append(states[-1])

    assert (sums.total, sums.queued) == (len(ends), sum(t.status is Status.QUEUED for t in ends))
    assert sums.active == sum(t.status.is_active for t in ends)
    assert sums.completed == sum(t.status is Status.COMPLETED for t in ends)
    assert sums.failed == sum(t.status is Status.FAILED for t in ends)
    for name in ("calls", "failed_calls", "unpriced_calls", "tokens_out", "duration_ms", "cost_microusd"):
        assert getattr(sums, name) == sum(getattr(task.receipt, name) for task in ends)


def _history(steps: list[str]) -> list[Task]:
    states = [a_task()]
    attempts = (an_attempt(), an_attempt(cost_microusd=None), a_failed_attempt())
    for step in steps:
        task = states[-1]
        if step == "claim" and not task.status.is_final:
            states.append(claimed(task, now_ms=max(task.lease_ms, NOW_MS)))
        elif task.status.is_active and step == "progress":
            states.append(task.progressed(an_output("STEP#a", attempts=attempts)))
        elif task.status.is_active and step == "release":
            states.append(task.released(a_failure(error=None, attempts=attempts), due_ms=NOW_MS))
        elif task.status.is_active and step == "complete":
            states.append(task.completed(an_output(f"RES#{task.fence}", attempts=attempts)))
        elif task.status.is_active and step == "fail":
            states.append(task.failed(a_failure(attempts=attempts)))
    return states
