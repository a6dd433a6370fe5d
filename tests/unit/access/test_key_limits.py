"""A key's daily cost limit holds for every engine call, whatever happens between sending and storing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.api_key import Account, Caller, KeyLimits, Payer
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LimitReached,
    PromptRefused,
    QuotaExceeded,
    StorageUnavailable,
    TaskCancelled,
    TooManyInFlight,
)
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.storage.sqlite.api_keys import SqliteKeys
from llm_server.storage.sqlite.database import Database
from support.scripted_engine import WAIT_S, ScriptedEngine, a_catalog, a_completion, a_local_engine, an_engine
from support.scripted_service import Served

KEY = "0123456789ab"
TODAY = Account(KEY, "2025-10-09")
COST = 10 + 2 * 20
"""Cost of a scripted answer: 10 input tokens at 1 micro-USD and 20 output tokens at 2 micro-USD."""


def payer(usd_microusd: int) -> Payer:
    return Payer(key_id=KEY, limits=KeyLimits(microusd_per_day=usd_microusd))


def submitted(served: Served, cap_microusd: int, **asked: object) -> TaskRef:
    task = served.service.submit("local", NewTask(prompt="Why?", **asked), payer=payer(cap_microusd))  # type: ignore[arg-type]
    served.refs.append(task.ref)
    return task.ref


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteKeys]:
    keys = SqliteKeys(Database(tmp_path / "ledger.db"))
    yield keys
    keys.close()


def test_receipt_usage_and_key_show_the_same_charge_for_a_call(served: Served) -> None:
    ref = submitted(served, 100_000)
    served.work()
    usage = served.service.usage(Caller(payer=payer(100_000)))

    assert served.get(ref).task.receipt.cost_microusd == COST
    assert usage.charged is not None
    assert (usage.spent_microusd, usage.charged.charged_microusd, usage.charged.unsettled_microusd) == (COST, COST, 0)


def test_calls_of_a_key_without_a_cap_are_not_recorded_in_its_account(served: Served) -> None:
    task = served.service.submit("local", NewTask(prompt="Why?"), payer=Payer(key_id=KEY, limits=KeyLimits()))
    served.refs.append(task.ref)
    served.work()

    assert served.keys.use(TODAY).charged_microusd == 0


def test_answers_get_shorter_and_then_calls_stop_before_the_cap(served: Served) -> None:
    """Each task spends what is left; the last task fails and names the limit; the sum never exceeds the cap."""

    def answer(call: EngineCall) -> object:
        return a_completion(tokens_in=10, tokens_out=call.max_output_tokens)

    served.engine = ScriptedEngine(answer)  # type: ignore[arg-type]
    served.use(a_catalog({"only": an_engine()}))
    refs = [submitted(served, 12_000) for _ in range(4)]
    served.work()
    tasks = [served.get(ref).task for ref in refs]

    assert tasks[0].status is Status.COMPLETED
    assert tasks[-1].status is Status.FAILED
    assert tasks[-1].error == "The next engine call could cost more than is left of usd_per_day."
    assert sum(task.receipt.cost_microusd for task in tasks) == served.keys.use(TODAY).charged_microusd <= 12_000


def test_new_tasks_are_refused_when_the_day_is_spent_and_accepted_the_next_day(served: Served) -> None:
    served.keys.reserve(TODAY, "t#1", 500, max_microusd=500)
    with pytest.raises(QuotaExceeded, match="usd_per_day"):
        submitted(served, 500)
    before = served.service.counters().total
    served.clock.pass_s(16 * 3600)
    submitted(served, 500)

    assert (before, served.service.counters().total) == (0, 1)


def test_an_engine_that_costs_nothing_answers_when_the_cap_leaves_too_little(served: Served) -> None:
    """The cap limits money only, so a free engine still answers an accepted prompt."""
    served.use(a_catalog({"only": a_local_engine()}))
    ref = submitted(served, 1)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
    assert served.keys.use(TODAY).charged_microusd == 0


def test_an_engine_with_an_unknown_price_cannot_be_used_under_a_cap(served: Served) -> None:
    served.use(a_catalog({"only": an_engine(price=None)}))
    ref = submitted(served, 10**9)
    served.work()

    assert served.get(ref).task.error == "The engine's price is unknown, so usd_per_day cannot be enforced."


def test_a_worker_that_dies_after_sending_leaves_the_worst_case_charged(served: Served) -> None:
    """The true cost is unknown, so usage shows it as unsettled; the next delivery is charged for its own call."""
    served.engine = ScriptedEngine(ZeroDivisionError(), "Hello.")
    served.use(a_catalog({"only": an_engine()}))
    ref = submitted(served, 100_000)
    with pytest.raises(ZeroDivisionError):
        served.work()
    crashed = served.keys.use(TODAY)
    served.clock.pass_s(300)
    served.service.sweep()
    served.work()
    after, receipt = served.keys.use(TODAY), served.get(ref).task.receipt

    assert crashed.charged_microusd == crashed.unsettled_microusd > COST
    assert receipt.cost_microusd == COST
    assert after.charged_microusd - after.unsettled_microusd == COST
    assert after.unsettled_microusd == crashed.unsettled_microusd


@pytest.mark.parametrize(
    "failure",
    [EngineUnavailable("The engine timed out.", kind="timeout", may_be_billed=True), TaskCancelled()],
    ids=["late", "cancelled"],
)
def test_a_call_with_an_unknown_cost_stays_unsettled(served: Served, failure: Exception) -> None:
    """The engine received the prompt and may bill it: the call timed out, or its task was cancelled."""

    def ended_without_a_bill(_: EngineCall) -> str:
        if isinstance(failure, TaskCancelled):
            served.service.cancel(ref)
        raise failure

    served.engine = ScriptedEngine(ended_without_a_bill)
    served.use(a_catalog({"only": an_engine()}))
    ref = submitted(served, 1_000_000)
    served.work()
    use = served.keys.use(TODAY)

    assert use.charged_microusd == use.unsettled_microusd > COST


def test_a_call_that_reports_no_tokens_is_settled_for_its_estimate_alone(served: Served) -> None:
    """The engine may bill more than the estimate, so the rest of the worst case stays charged."""
    served.engine = ScriptedEngine(a_completion(estimated=True))
    served.use(a_catalog({"only": an_engine()}))
    submitted(served, 1_000_000)
    served.work()
    use = served.keys.use(TODAY)

    assert use.charged_microusd - use.unsettled_microusd == COST
    assert use.unsettled_microusd == use.withheld_microusd > 0


def test_tasks_of_a_revoked_key_are_still_completed(served: Served) -> None:
    """They were accepted before; callers that do not want them can cancel them."""
    key, token = served.service.keys.create("local", ["tasks"])
    task = served.service.submit("local", NewTask(prompt="Why?"), payer=served.service.keys.caller(token).payer)
    served.refs.append(task.ref)
    served.service.keys.revoke(key.key_id)
    served.work()

    assert served.get(task.ref).task.status is Status.COMPLETED


def test_a_refused_call_costs_nothing(served: Served) -> None:
    served.engine = ScriptedEngine(PromptRefused("No."))
    served.use(a_catalog({"only": an_engine()}))
    submitted(served, 100_000)
    served.work()

    assert served.keys.use(TODAY).charged_microusd == 0


def test_a_tasks_own_limit_and_its_keys_limit_both_apply(ledger: SqliteKeys) -> None:
    """The smaller limit shortens the answer; after the call both limits get back what it did not cost."""
    call = EngineCall(system="", messages=user(""), max_output_tokens=100)
    daily = KeyBudget(ledger, TODAY, max_microusd=600, claim="t#1")
    budget = Budget(900, daily)
    first, reserved = budget.reserve(call, lambda u: 10 * u.output_tokens)
    budget.settle(reserved, 100)
    second, _ = budget.reserve(call, lambda u: 10 * u.output_tokens)
    budget.withhold()

    assert (first.max_output_tokens, reserved.microusd) == (59, 590)
    assert second.max_output_tokens == 49
    with pytest.raises(LimitReached, match="usd_per_day"):
        budget.reserve(call, lambda u: 10 * u.output_tokens)


def test_a_ledger_outage_during_settlement_keeps_the_full_reservation_charged(ledger: SqliteKeys) -> None:
    """An answer that is already paid for is not discarded because its accounting failed."""

    class Away(SqliteKeys):
        def settle(self, *_: object, **__: object) -> None:
            raise StorageUnavailable("The database does not answer; try again.")

    ledger.__class__ = Away
    daily = KeyBudget(ledger, TODAY, max_microusd=600, claim="t#1")
    budget = Budget(None, daily)
    _, reserved = budget.reserve(
        EngineCall(system="", messages=user(""), max_output_tokens=20), lambda u: 10 * u.output_tokens
    )
    budget.settle(reserved, 100)

    assert ledger.use(TODAY).charged_microusd == 200


def test_a_call_that_ends_after_midnight_is_settled_on_the_day_it_was_charged(served: Served) -> None:
    """If the rest were given back to the next day, it would raise that day's cap."""

    def past_midnight(_: EngineCall) -> str:
        served.clock.pass_s(120)
        return "Hello."

    served.clock.pass_s(15 * 3600 + 6 * 60 - 60)
    served.engine = ScriptedEngine(past_midnight)
    served.use(a_catalog({"only": an_engine()}))
    submitted(served, 100_000)
    served.work()

    assert served.keys.use(TODAY).charged_microusd == COST
    assert served.keys.use(replace(TODAY, day="2025-10-10")).charged_microusd == 0


def test_64_concurrent_claims_of_one_key_never_exceed_its_cap(ledger: SqliteKeys) -> None:
    """Each claim stands for a separate worker; they share only the ledger."""
    start = threading.Barrier(64, timeout=WAIT_S)
    call = EngineCall(system="", messages=user(""), max_output_tokens=30)

    def race(n: int) -> int:
        budget = Budget(None, KeyBudget(ledger, TODAY, max_microusd=10_000, claim=f"t{n}#1"))
        start.wait()
        spent = 0
        for _ in range(3):
            try:
                _, reserved = budget.reserve(call, lambda u: 10 * u.output_tokens)
            except LimitReached:
                continue
            assert ledger.use(TODAY).charged_microusd <= 10_000
            budget.settle(reserved, reserved.microusd - 7)
            spent += reserved.microusd - 7
        return spent

    with ThreadPoolExecutor(64) as pool:
        spent = sum(pool.map(race, range(64)))

    assert spent == ledger.use(TODAY).charged_microusd <= 10_000
    assert spent > 9_000


def test_each_call_of_a_parallel_plan_is_charged(served: Served) -> None:
    from support.deliveries import planning

    served.engine = planning()
    served.use(a_catalog({"only": an_engine()}))
    ref = submitted(served, 10**7, mode=Mode.PLAN)
    served.work()
    task = served.get(ref).task

    assert (task.status, task.receipt.calls > 3) == (Status.COMPLETED, True)
    assert served.keys.use(TODAY).charged_microusd == task.receipt.cost_microusd


# Effect of a changed limit on tasks that were accepted before


def asked(served: Served, token: str) -> TaskRef:
    task = served.service.submit("local", NewTask(prompt="Why?"), payer=served.service.keys.caller(token).payer)
    served.refs.append(task.ref)
    return task.ref


def in_flight(served: Served, token: str) -> int:
    payer = served.service.keys.caller(token).payer
    assert payer is not None
    return served.service.keys.use(payer).tasks_in_flight


def test_tasks_count_as_in_flight_if_they_were_accepted_under_the_limit(served: Served) -> None:
    """Tasks accepted before the limit was set never count.

    Tasks accepted before it was removed count until they end.
    """
    keys = served.service.keys
    key, token = keys.create("local", ["tasks"])
    asked(served, token)
    keys.update(key.key_id, {"limits": {"tasks_in_flight": 1}})
    asked(served, token)
    under_the_limit = in_flight(served, token)
    with pytest.raises(TooManyInFlight):
        asked(served, token)
    keys.update(key.key_id, {"limits": {"tasks_in_flight": None}})
    asked(served, token)
    removed = in_flight(served, token)
    keys.update(key.key_id, {"limits": {"tasks_in_flight": 1}})
    with pytest.raises(TooManyInFlight):
        asked(served, token)
    served.work()

    assert (under_the_limit, removed, in_flight(served, token)) == (1, 1, 0)
    asked(served, token)


def test_a_task_keeps_the_daily_cap_it_was_accepted_under(served: Served) -> None:
    """A lower cap refuses new tasks at once.

    After the cap is removed, new tasks are not charged, and earlier charges stay.
    """
    keys = served.service.keys
    key, token = keys.create("local", ["tasks"], limits=KeyLimits(microusd_per_day=100_000))
    account = Account(key.key_id, TODAY.day)
    first = asked(served, token)
    keys.update(key.key_id, {"limits": {"usd_per_day": 0.000001}})
    served.work()
    charged = served.keys.use(account).charged_microusd
    with pytest.raises(QuotaExceeded, match="usd_per_day"):
        asked(served, token)
    keys.update(key.key_id, {"limits": {"usd_per_day": None}})
    second = asked(served, token)
    served.work()

    assert [served.get(ref).task.receipt.cost_microusd for ref in (first, second)] == [COST, COST]
    assert charged == served.keys.use(account).charged_microusd == COST


def test_tasks_of_an_expired_key_are_still_completed(served: Served) -> None:
    _, token = served.service.keys.create("local", ["tasks"], expires_ms=served.clock() + 1_000)
    ref = asked(served, token)
    served.clock.pass_s(1)
    served.work()

    assert served.get(ref).task.status is Status.COMPLETED
