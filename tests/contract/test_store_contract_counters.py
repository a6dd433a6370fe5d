"""What every store promises about its figures: they change with the task, by exactly what the task did."""

from __future__ import annotations

import pytest

from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.status import Mode
from support.audit import audit
from support.builders import (
    LEASE_MS,
    NOW_MS,
    a_failed_attempt,
    a_failure,
    a_request,
    a_task,
    an_attempt,
    an_output,
    claimed,
)

DAY_MS = 24 * 3600 * 1000
LOCAL = an_attempt(engine="llama", model="llama", source="local", cost_microusd=0)
UNPRICED = an_attempt(cost_microusd=None)


def test_an_empty_store_counts_nothing(store: Store) -> None:
    assert store.overview() == (Counters(), EngineRecords())
    assert store.spent_microusd("local", "2025-10-09") == 0


def test_every_transition_of_a_plan_is_counted(store: Store) -> None:
    """Submit, claim, plan, step, release, claim again, complete: the figures after each of them."""
    task, figures = a_task(mode=Mode.PLAN), []
    plan = an_output("PLAN", "{}", attempts=(a_failed_attempt(), an_attempt(tokens_in=1, tokens_out=2)))
    step = an_output("STEP#a", attempts=(LOCAL,))
    pause = a_failure("TRY#1", error=None)
    answer = an_output("RES#2", attempts=(an_attempt(duration_ms=500, cost_microusd=7),))
    states = [claimed(task)]
    states.append(states[-1].progressed(plan))
    states.append(states[-1].progressed(step))
    states.append(states[-1].released(pause, due_ms=NOW_MS))
    states.append(claimed(states[-1], now_ms=NOW_MS + 10_000, has_plan=True))
    states.append(states[-1].completed(answer))

    store.add(task, a_request())
    figures.append(store.overview()[0])
    before = task
    for after, output in zip(states, [None, plan, step, pause, None, None], strict=True):
        if after is states[-1]:
            store.keep(task.ref, answer)
        store.save(before, after, output)
        figures.append(store.overview()[0])
        before = after

    one = {"calls": 1, "failed_calls": 1, "api_calls": 1, "tokens_in": 1, "tokens_out": 2, "duration_ms": 1_000}
    two = one | {"calls": 2, "tokens_in": 11, "tokens_out": 22, "duration_ms": 2_000, "cost_microusd": 300}
    three = two | {"failed_calls": 2}
    assert figures == [
        Counters(total=1, queued=1),
        Counters(total=1, active=1),
        Counters(total=1, active=1, cost_microusd=300, **one),
        Counters(total=1, active=1, **two),
        Counters(total=1, queued=1, **three),
        Counters(total=1, active=1, **three),
        Counters(
            total=1,
            completed=1,
            calls=3,
            failed_calls=2,
            api_calls=2,
            tokens_in=21,
            tokens_out=42,
            duration_ms=2_500,
            cost_microusd=307,
        ),
    ]
    audit(store, [task.ref])


@pytest.mark.parametrize(
    "attempts",
    [
        (),
        (an_attempt(),),
        (LOCAL,),
        (UNPRICED,),
        (a_failed_attempt(),),
        (a_failed_attempt(), UNPRICED, LOCAL, an_attempt()),
    ],
    ids=["none", "api", "local", "unpriced", "failed", "all"],
)
def test_a_failed_task_counts_its_calls(store: Store, attempts: tuple[Attempt, ...]) -> None:
    task, output = a_task(), a_failure(attempts=attempts)
    processing = claimed(task)
    store.add(task, a_request())
    store.save(task, processing)

    store.save(processing, processing.failed(output), output)

    assert store.overview()[0].failed == 1
    assert store.get(task.ref).task.error == "No engine answered."
    audit(store, [task.ref])


def test_the_figures_are_the_sum_over_tasks_and_tenants(store: Store) -> None:
    tasks = [a_task(tenant=f"tenant-{n % 3}") for n in range(9)]
    for n, task in enumerate(tasks):
        store.add(task, a_request())
        processing, output = claimed(task), a_failure(attempts=(an_attempt(cost_microusd=n),))
        if n % 3:
            store.save(task, processing)
        if n % 3 == 2:
            store.save(processing, processing.failed(output), output)

    figures = store.overview()[0]

    assert (figures.total, figures.queued, figures.active, figures.failed) == (9, 3, 3, 3)
    assert figures.cost_microusd == 2 + 5 + 8
    audit(store, [task.ref for task in tasks])


def test_spending_is_kept_by_tenant_and_utc_day(store: Store) -> None:
    """The day is that of the record: a task that goes on over midnight spends on both days."""
    midnight_ms = NOW_MS - NOW_MS % DAY_MS + DAY_MS
    for tenant in ("a", "b"):
        task = a_task(tenant=tenant, mode=Mode.PLAN)
        plan = an_output("PLAN", "{}", created_ms=midnight_ms - 1, attempts=(an_attempt(cost_microusd=5),))
        step = an_output("STEP#1", created_ms=midnight_ms - 1, attempts=(an_attempt(cost_microusd=6),))
        other = an_output("STEP#2", created_ms=midnight_ms, attempts=(an_attempt(cost_microusd=70), UNPRICED, LOCAL))
        before = claimed(task)
        store.add(task, a_request())
        store.save(task, before)
        for output in (plan, step, other) if tenant == "a" else (other,):
            after = before.progressed(output)
            store.save(before, after, output)
            before = after

    spent = {
        (tenant, day): store.spent_microusd(tenant, day) for tenant in "abc" for day in ("2025-10-09", "2025-10-10")
    }

    assert {key: value for key, value in spent.items() if value} == {
        ("a", "2025-10-09"): 11,
        ("a", "2025-10-10"): 70,
        ("b", "2025-10-10"): 70,
    }


def test_a_claim_after_a_crash_leaves_the_gauges(store: Store) -> None:
    task = a_task()
    first = claimed(task)
    store.add(task, a_request())
    store.save(task, first)

    store.save(first, claimed(first, now_ms=NOW_MS + LEASE_MS, owner="w2"))

    assert store.overview()[0] == Counters(total=1, active=1)


def test_an_engine_s_record_is_replaced(store: Store) -> None:
    resting = EngineState(failures=3, rest_until_ms=NOW_MS, reason="The engine is busy (HTTP 429).")
    offline = EngineState(offline=True, reason="Keine Verbindung möglich.")
    store.save_engine_state("gpt", EngineState(failures=1))
    store.save_engine_state("open-router.v2", offline)

    store.save_engine_state("gpt", resting)

    stored = EngineRecords(states={"gpt": resting, "open-router.v2": offline})
    assert (store.engines(), store.overview()) == (stored, (Counters(), stored))


def test_a_record_is_swapped_only_for_the_one_it_replaces(store: Store) -> None:
    """A caller that has read an older record is refused."""
    well, resting, probed = EngineState(), EngineState(failures=1), EngineState(failures=1, probe_until_ms=NOW_MS)

    assert store.swap_engine_state("gpt", well, resting)
    assert not store.swap_engine_state("gpt", well, probed)
    assert store.swap_engine_state("gpt", resting, probed)
    assert not store.swap_engine_state("gpt", resting, well)

    assert store.engines().states == {"gpt": probed}
