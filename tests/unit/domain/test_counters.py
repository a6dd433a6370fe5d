"""Counters are the sum of the changes of all tasks, and the nine metrics are computed from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.domain.counters import Counters, change, day_of, summarise
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from support.builders import NOW_MS, a_failed_attempt, a_failure, a_task, an_attempt, an_output, claimed
from support.scripted_engine import a_completion

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


def test_an_unused_server_reports_nulls_and_zeros() -> None:
    """Exactly the nine fields of the contract; rates and averages without data are null."""
    figures = summarise(Counters(), {})

    assert set(figures) == NINE
    assert [figures[name] for name in ("tokens_per_second", "average_response_time", "success_rate")] == [None] * 3
    assert (figures["total_requests"], figures["active_tasks"], figures["queue_length"]) == (0, 0, 0)
    assert (figures["api_costs"], figures["server_status"]) == (0.0, "offline")


def test_the_metrics_have_the_units_of_the_contract() -> None:
    """Output tokens per second of call time, mean seconds per call, a percentage, and USD."""
    counters = Counters(
        total=9, queued=2, active=3, completed=3, failed=1, cancelled=5, calls=4, api_calls=4,
        tokens_out=300, duration_ms=6_000, cost_microusd=1_250_000,
    )  # fmt: skip

    figures = summarise(counters, {"a": "cooling", "b": "online"})

    assert (figures["tokens_per_second"], figures["average_response_time"]) == (50.0, 1.5)
    assert (figures["success_rate"], figures["api_costs"]) == (75.0, 1.25)
    assert (figures["total_requests"], figures["active_tasks"], figures["queue_length"]) == (9, 3, 2)
    assert (figures["server_status"], figures["llm_status"]) == ("online", {"a": "cooling", "b": "online"})


def test_a_count_that_cannot_be_true_does_not_raise_the_speed() -> None:
    """100,000,000 tokens reported for a call limited to 50: the attempt has the limit, so the metrics have it too."""
    call = EngineCall(system="", messages=user("Why?"), max_output_tokens=50)
    wrong, started = a_completion(tokens_out=100_000_000), an_attempt(tokens_out=0)
    attempt = attempts.finish(started, call, wrong, took_ms=1_000, price=lambda _: 0, reserved_microusd=0)
    answer = an_output(attempts=(attempt,))

    counters = change(claimed(a_task()), claimed(a_task()).completed(answer))

    assert summarise(counters, {})["tokens_per_second"] == 50


def test_unknown_costs_are_null() -> None:
    """If every call is unpriced, the cost is null and not 0; one priced call is enough to report a cost."""
    assert summarise(Counters(api_calls=2, unpriced_calls=2), {})["api_costs"] is None
    assert summarise(Counters(api_calls=2, unpriced_calls=1, cost_microusd=3), {})["api_costs"] == 0.000003


def test_a_server_whose_engines_all_cool_down_is_offline() -> None:
    """Online means that at least one engine can accept work now."""
    assert summarise(Counters(), {"a": "cooling", "b": "locked"})["server_status"] == "offline"


def test_days_are_utc_days() -> None:
    """Spending is recorded by day, and every machine must use the same day."""
    assert day_of(NOW_MS) == "2025-10-09"
    assert day_of(1_767_225_599_999) == "2025-12-31"
    assert day_of(1_767_225_600_000) == "2026-01-01"


def test_an_accepted_task_is_counted_once() -> None:
    """A second claim in the same status changes no gauge."""
    task = a_task()
    worked = claimed(task)

    assert change(None, task).nonzero() == {"total": 1, "queued": 1}
    assert change(task, worked).nonzero() == {"queued": -1, "active": 1}
    assert change(worked, claimed(worked, now_ms=worked.lease_ms)).nonzero() == {}


walk = st.lists(st.sampled_from(["claim", "progress", "release", "complete", "fail"]), max_size=12)


@given(st.lists(walk, max_size=5))
def test_the_sum_of_all_changes_equals_the_counts_of_the_tasks(walks: list[list[str]]) -> None:
    """After any history of any tasks, counters and receipts agree with the stored tasks."""
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
