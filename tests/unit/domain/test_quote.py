"""What a quote says of a task's cost and time."""

from __future__ import annotations

from typing import Any

import pytest

from llm_server.orchestration.domain.receipt import Receipt
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.quotes.quote import LOCAL_ONLY, MIN_SAMPLE, NO_LIMIT, Expected, Percentiles, ceiling
from support.builders import NOW_MS, a_task


def done(microusd: int = 100, took_s: int = 1, unpriced: int = 0, **changes: Any) -> Task:
    receipt = Receipt(calls=1, cost_microusd=microusd, unpriced_calls=unpriced)
    return a_task(receipt=receipt, finished_ms=NOW_MS + took_s * 1000, **changes)


def test_the_percentiles_are_values_of_the_sample() -> None:
    """The nearest rank: half of the tasks, and nine tenths of them, cost and took at most this."""
    expected = Expected.of([done(n, took_s=2 * n) for n in range(30, 0, -1)])

    assert expected == Expected(microusd=Percentiles(p50=15, p90=27), seconds=Percentiles(p50=30, p90=54), sample=30)


def test_few_tasks_tell_nothing() -> None:
    few = [done() for _ in range(MIN_SAMPLE - 1)]

    assert Expected.of(few) == Expected(sample=19)
    assert Expected.of([*few, done()]).microusd == Percentiles(p50=100, p90=100)


@pytest.mark.parametrize(
    ("odd", "tells"),
    [
        (done(9, 9, unpriced=1), (False, True)),
        (done(9, 9, approval="given"), (True, False)),
        (done(9, 9, retried_fence=1), (True, False)),
    ],
    ids=["unpriced", "approved", "retried"],
)
def test_a_task_tells_only_what_it_knows(odd: Task, tells: tuple[bool, bool]) -> None:
    """An unpriced call hides the cost; a caller who took his time hides the time."""
    expected = Expected.of([odd, *(done() for _ in range(MIN_SAMPLE - 1))])

    assert (expected.microusd is not None, expected.seconds is not None) == tells
    assert expected.sample == MIN_SAMPLE


def test_the_rest_of_a_task_is_never_below_zero() -> None:
    expected = Expected(microusd=Percentiles(p50=10, p90=100), seconds=Percentiles(p50=1, p90=5), sample=20)

    assert expected.after(30, 2.0) == Expected(
        microusd=Percentiles(p50=0, p90=70), seconds=Percentiles(p50=0, p90=3), sample=20
    )
    assert Expected(sample=3).after(30, 2.0) == Expected(sample=3)


def test_a_ceiling_is_what_the_limit_leaves() -> None:
    assert ceiling(None, is_local=False) == (None, NO_LIMIT)
    assert ceiling(None, is_local=True) == ceiling(50_000, is_local=True) == (0, LOCAL_ONLY)
    assert ceiling(50_000, is_local=False) == (50_000, "The max_cost_usd of 0.05 bounds it.")
    assert ceiling(50_000, spent_microusd=20_000, is_local=False) == (
        30_000,
        "The max_cost_usd of 0.05 bounds it, of which USD 0.02 are spent.",
    )
    assert ceiling(50_000, spent_microusd=60_000, is_local=False)[0] == 0
