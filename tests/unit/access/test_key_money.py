"""Reservations in a key's daily budget: which tasks wait for them, which key pays, and what stays charged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.api_key import Account, Charges, KeyLimits, Payer
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LimitReached,
    MoneySetAside,
    PromptRefused,
    StorageUnavailable,
    TooManyInFlight,
)
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from support.scripted_engine import (
    WAIT_S,
    Balanced,
    ScriptedEngine,
    a_catalog,
    a_completion,
    a_usage,
    an_engine,
    call_terms,
)
from support.scripted_service import Served

KEY = "0123456789ab"
TODAY = Account(KEY, "2025-10-09")
COST = 10 + 2 * 20
"""Cost of a scripted answer: 10 input tokens at 1 micro-USD and 20 output tokens at 2 micro-USD."""
CALL = EngineCall(system="", messages=user(""), max_output_tokens=90)
NO = PromptRefused("No.")


def payer(key_id: str = KEY, **limits: Any) -> Payer:
    return Payer(key_id=key_id, limits=KeyLimits(**limits))


def submitted(served: Served, by: Payer, limits: Limits | None = None) -> TaskRef:
    task = served.service.submit("local", NewTask(prompt="Why?", limits=limits or Limits()), payer=by)
    served.refs.append(task.ref)
    return task.ref


def output_only(usage: Usage) -> int:
    return 10 * usage.output_tokens


def use(served: Served, *answers: object) -> None:
    served.engine = ScriptedEngine(*answers)  # type: ignore[arg-type]
    served.use(a_catalog({"only": an_engine()}))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteKeys]:
    keys = SqliteKeys(Database(tmp_path / "ledger.db"))
    yield keys
    keys.close()


# Costs that an engine may still bill


@pytest.mark.parametrize(
    ("answer", "cost"),
    [
        (a_completion(estimated=True), COST),
        (EngineUnavailable("Late.", may_be_billed=True), 0),
        (PromptRefused("Declined.", usage=a_usage(10, 0), may_be_billed=True), 10),
    ],
    ids=["no usage", "late", "declined without usage"],
)
def test_an_unknown_cost_stays_charged_to_the_keys_day(served: Served, answer: object, cost: int) -> None:
    """Giving back an unknown cost could exceed the cap. The receipt shows the known part only."""
    use(served, answer)
    ref = submitted(served, payer(microusd_per_day=100_000))
    served.work()
    charged, task = served.keys.use(TODAY), served.get(ref).task

    assert task.receipt.cost_microusd == cost
    assert (charged.charged_microusd - charged.withheld_microusd, charged.under_way_microusd) == (cost, 0)
    assert charged.withheld_microusd > 2_000


@pytest.mark.parametrize(("tokens_in", "tokens_out"), [(10, 100_000_000), (100_000_000, 20)])
def test_a_count_that_cannot_be_true_does_not_drain_the_keys_day(
    served: Served, tokens_in: int, tokens_out: int
) -> None:
    """An engine once reported 100,000,000 tokens for a call limited to 50; that put USD 200 on the receipt."""
    use(served, a_completion(tokens_in=tokens_in, tokens_out=tokens_out), *["Hello."] * 3)
    by = payer(microusd_per_day=100_000)
    ref = submitted(served, by, Limits(max_output_tokens=50))
    served.work()

    (attempt,) = served.get(ref).attempts
    charged = served.keys.use(TODAY).charged_microusd
    assert attempt.usage_implausible
    assert max(attempt.tokens_in, attempt.tokens_out) < 10_000
    assert 0 < served.get(ref).task.receipt.cost_microusd <= charged < 10_000
    refs = [submitted(served, by) for _ in range(3)]
    served.work()
    assert {served.get(ref).task.status for ref in refs} == {Status.COMPLETED}


def test_an_engine_that_never_reports_usage_cannot_exceed_the_cap(served: Served) -> None:
    """Each call is charged its worst case, even if the estimate is lower."""
    use(served, *[a_completion(estimated=True)] * 12)
    refs = [submitted(served, payer(microusd_per_day=10_000)) for _ in range(12)]
    for _ in range(12):
        served.work()
        served.clock.pass_s(400)
    worst = max(sum(a.cost_microusd or 0 for a in served.get(ref).attempts) for ref in refs)

    assert worst <= COST
    assert len(served.engine.calls) * 2_000 <= 10_000, "an answer may be 1,000 tokens long"
    assert served.keys.use(TODAY).charged_microusd <= 10_000


# Waiting for reservations of other calls


def test_a_step_waits_for_the_daily_budget_that_parallel_steps_have_reserved(ledger: SqliteKeys) -> None:
    """As with `max_cost_usd`, a short reservation neither refuses the step nor shortens its answer."""
    budget = Budget(None, KeyBudget(ledger, TODAY, max_microusd=1_000, claim="t#1"))
    _, reserved = budget.reserve(CALL, output_only)
    made = list[int]()
    sibling = threading.Thread(target=lambda: made.append(budget.reserve(CALL, output_only)[1].microusd))
    sibling.start()
    sibling.join(0.1)
    assert made == []

    budget.settle(reserved, 50)
    sibling.join(WAIT_S)

    assert made == [900]


def test_a_task_waits_for_the_daily_budget_that_other_tasks_have_reserved(served: Served) -> None:
    """Their worst case is reserved for a short time only, so the task must not fail because of it."""
    use(served, "At last.")
    ref = submitted(served, payer(microusd_per_day=10_000))
    served.keys.reserve(TODAY, "other#1", 9_990, max_microusd=10_000)
    served.work()
    waiting = served.get(ref).task
    served.keys.settle(TODAY, "other#1", 9_990, 60)
    served.clock.pass_s(10)
    served.work()

    assert (waiting.status, waiting.error) == (Status.QUEUED, None)
    assert served.get(ref).result == "At last."


def test_a_reservation_that_is_never_released_fails_the_task_in_the_end(served: Served) -> None:
    """The worker that made it died, which looks the same as a slow call."""
    use(served)
    ref = submitted(served, payer(microusd_per_day=10_000))
    served.keys.reserve(TODAY, "dead#1", 9_990, max_microusd=10_000)
    for _ in range(12):
        served.work()
        served.clock.pass_s(400)

    assert served.get(ref).task.status is Status.FAILED
    assert "usd_per_day" in (served.get(ref).task.error or "")
    assert served.engine.calls == []


def test_64_tasks_of_one_key_are_all_answered_if_their_true_cost_fits_the_cap(served: Served) -> None:
    """Their worst cases together exceed the cap, so they wait for each other."""
    use(served, *["Hello."] * 64)
    refs = [submitted(served, payer(microusd_per_day=10_000)) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda ref: served.service.process(ref, owner=ref.task_id), refs))
    for _ in range(6):
        served.clock.pass_s(400)
        served.work()

    assert {served.get(ref).task.status for ref in refs} == {Status.COMPLETED}
    assert served.keys.use(TODAY) == replace(served.keys.use(TODAY), charged_microusd=64 * COST, under_way_microusd=0)


def test_a_ledger_outage_keeps_an_answer_that_is_already_paid(balanced: Balanced) -> None:
    """The strong engine's call cannot be reserved, so the fast engine's flawed answer is returned."""

    class Away:
        calls = 0

        def reserve(self, *_: object, **__: object) -> Charges | None:
            Away.calls += 1
            if Away.calls > 1:
                raise StorageUnavailable("The database does not answer; try again.")
            return None

        def settle(self, *_: object, **__: object) -> None: ...

        def withhold(self, *_: object) -> None: ...

    fast, strong = an_engine(tier="fast"), an_engine(tier="strong")
    balancer = balanced(fast=(fast, ScriptedEngine("Meh.")), strong=(strong, ScriptedEngine("Better.")))
    daily = KeyBudget(Away(), TODAY, max_microusd=10**9, claim="t#1")
    terms = call_terms(budget=Budget(None, daily), fault=lambda completion: "refusal", tier="fast")
    reply = balancer.call(CALL, terms)

    assert reply.completion is not None
    assert (reply.completion.text, [a.fault for a in reply.attempts]) == ("Meh.", ["refusal"])


def test_a_ledger_outage_makes_a_call_wait_instead_of_failing(ledger: SqliteKeys) -> None:
    class Away(SqliteKeys):
        def reserve(self, *_: object, **__: object) -> Charges | None:
            raise StorageUnavailable("The database does not answer; try again.")

    ledger.__class__ = Away
    with pytest.raises(MoneySetAside):
        Budget(None, KeyBudget(ledger, TODAY, max_microusd=600, claim="t#1")).reserve(CALL, output_only)


def test_a_call_fails_at_once_if_no_reservation_could_be_released_for_it(ledger: SqliteKeys) -> None:
    """Nothing is reserved for calls in progress, so waiting would not help."""
    ledger.reserve(TODAY, "t0#1", 500, max_microusd=600)
    ledger.settle(TODAY, "t0#1", 500, 300, withheld_microusd=200)
    with pytest.raises(LimitReached, match="left of usd_per_day") as refused:
        Budget(None, KeyBudget(ledger, TODAY, max_microusd=600, claim="t#1")).reserve(CALL, output_only)

    assert not isinstance(refused.value, MoneySetAside)


# Which key pays for a retry


def test_a_retry_is_paid_by_the_key_that_requests_it(served: Served) -> None:
    """Otherwise a key with limits could retry tasks of a key without limits and never be charged."""
    use(served, NO, "At last.")
    ref = submitted(served, payer("a" * 12))
    served.work()
    served.service.retry(ref, payer=payer(microusd_per_day=100_000))
    served.work()

    assert served.get(ref).result == "At last."
    assert served.keys.use(TODAY).charged_microusd == COST


def test_a_retry_counts_against_the_tasks_in_flight_of_its_own_key(served: Served) -> None:
    """It does not count against the key that created the task."""
    first, second = payer("a" * 12, tasks_in_flight=1), payer("b" * 12, tasks_in_flight=1)
    use(served, NO, NO)
    failed = list[TaskRef]()
    for _ in range(2):
        failed.append(submitted(served, first))
        served.work()
    open_of_first = submitted(served, first)
    served.service.retry(failed[0], payer=second)

    with pytest.raises(TooManyInFlight):
        served.service.retry(failed[1], payer=second)
    with pytest.raises(TooManyInFlight):
        served.service.retry(failed[1], payer=first)
    assert served.service.keys.use(first).tasks_in_flight == 1
    assert served.service.keys.use(second).tasks_in_flight == 1
    assert served.get(open_of_first).task.counted_for == "a" * 12


def test_a_retry_by_a_key_without_limits_is_not_counted(served: Served) -> None:
    use(served, NO, "At last.")
    ref = submitted(served, payer(tasks_in_flight=1, microusd_per_day=100_000))
    served.work()
    served.service.retry(ref, payer=payer("b" * 12))
    served.work()

    assert served.keys.use(TODAY).tasks_in_flight == served.keys.use(TODAY).charged_microusd == 0
