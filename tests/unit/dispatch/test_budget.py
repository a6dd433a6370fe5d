"""A task's money limit always holds: the highest possible cost of each call is reserved before the call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.reservation import MIN_OUTPUT_TOKENS, Reservation
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import LimitReached
from support.scripted_engine import WAIT_S

WIRE = 64
UNPRICED = Reservation(is_priced=False)
CANCELLATION = Cancellation()


def a_call(prompt: str = "", most: int = 100) -> EngineCall:
    return EngineCall(system="", messages=user(prompt), max_output_tokens=most, cancellation=CANCELLATION)


def output_only(usage: Usage) -> int:
    return 10 * usage.output_tokens


def both(usage: Usage) -> int:
    return usage.tokens_in + 10 * usage.output_tokens


def test_without_a_limit_no_price_is_needed() -> None:
    """An engine with an unknown price may answer a task without a limit."""
    budget = Budget.of(None, 10**12)

    assert budget.reserve(a_call(), lambda _: None) == (a_call(), UNPRICED)
    budget.settle(UNPRICED, 10**12)
    assert budget.reserve(a_call(), lambda _: None) == (a_call(), UNPRICED)
    assert UNPRICED.worst_case_microusd is None


def test_without_a_limit_the_worst_case_is_known() -> None:
    """It is withheld on the receipt if it is never known what the engine charges."""
    reserved = Budget.of(None, 0).reserve(a_call("é" * 10), both)[1]

    assert (reserved.microusd, reserved.worst_case_microusd) == (20 + WIRE + 1_000, 20 + WIRE + 1_000)


def test_the_worst_case_is_set_aside_and_the_rest_given_back() -> None:
    """One token is reserved for each byte of the prompt, and the whole output limit."""
    budget = Budget.of(2_000, spent_microusd=500)
    prompt = "é" * 10

    call, reserved = budget.reserve(a_call(prompt), both)
    assert (call.max_output_tokens, reserved.microusd) == (100, 20 + WIRE + 1_000)
    budget.settle(reserved, 100)
    with pytest.raises(LimitReached, match="max_cost_usd"):
        budget.reserve(a_call("x" * 1_400), both)

    assert budget.reserve(a_call(prompt), both)[1] == reserved


def test_the_schema_of_an_answer_is_part_of_the_worst_case() -> None:
    """The schema is sent with the prompt, and the engine charges for it."""
    schema = AnswerSchema(name="plan", schema={"type": "object"})
    call = EngineCall(system="ab", messages=user("c"), max_output_tokens=100, answer_schema=schema)

    assert Budget(10_000).reserve(call, both)[1].microusd == 3 + len('{"type":"object"}') + WIRE + 1_000


def test_the_output_limit_is_cut_to_what_is_left() -> None:
    """A shorter answer within the limit is better than a failed task."""
    call, reserved = Budget(500).reserve(a_call(), output_only)

    assert MIN_OUTPUT_TOKENS <= call.max_output_tokens < 50
    assert reserved.microusd <= 500


def test_an_answer_too_short_to_be_worth_it_is_not_bought() -> None:
    """Then no money is reserved."""
    budget = Budget(10 * MIN_OUTPUT_TOKENS)

    with pytest.raises(LimitReached):
        budget.reserve(a_call(), output_only)
    assert budget.reserve(a_call(most=MIN_OUTPUT_TOKENS), output_only)[1].microusd == 10 * MIN_OUTPUT_TOKENS


def test_a_short_answer_the_caller_asked_for_is_allowed() -> None:
    """The caller's own limit of eight tokens fits into the money that is left."""
    assert Budget(1_000).reserve(a_call(most=8), output_only) == (a_call(most=8), Reservation(microusd=80))


def test_an_engine_with_an_unknown_price_cannot_be_used_under_a_limit() -> None:
    """An unknown price does not count as 0."""
    with pytest.raises(LimitReached, match="unknown"):
        Budget(10**9).reserve(a_call(), lambda _: None)


@pytest.mark.parametrize("left", [0, -5])
def test_nothing_left_allows_what_costs_nothing(left: int) -> None:
    """When the money is spent, a local engine still answers; an API engine does not."""
    with pytest.raises(LimitReached):
        Budget(left).reserve(a_call(), output_only)
    with pytest.raises(LimitReached):
        Budget(left).reserve(a_call(), lambda _: 1)
    if left == 0:
        assert Budget(left).reserve(a_call(), lambda _: 0) == (a_call(), Reservation())


@given(st.integers(-10, 5_000), st.integers(1, 10_000), st.integers(0, 40), st.integers(0, 40), st.integers(0, 300))
def test_what_is_set_aside_always_fits(left: int, most: int, in_price: int, out_price: int, length: int) -> None:
    """This holds for all prices and roundings."""
    call = a_call("x" * length, most)
    try:
        made, reserved = Budget(left).reserve(
            call, lambda u: -(-(in_price * u.tokens_in + out_price * u.output_tokens) // 10)
        )
    except LimitReached:
        return

    assert reserved.microusd <= max(left, 0)
    assert made.max_output_tokens <= most
    assert reserved.microusd >= -(-(in_price * length + out_price * made.max_output_tokens) // 10)


def test_64_racers_never_go_above_the_limit() -> None:
    """Parallel steps share one budget, and their running calls fit into it together."""
    budget = Budget(10_000)
    start = threading.Barrier(64, timeout=WAIT_S)

    def race(_: int) -> int:
        start.wait()
        spent = 0
        for _ in range(20):
            try:
                _call, reserved = budget.reserve(a_call(most=30), output_only)
            except LimitReached:
                continue
            budget.settle(reserved, reserved.microusd - 7)
            spent += reserved.microusd - 7
        return spent

    with ThreadPoolExecutor(64) as pool:
        spent = sum(pool.map(race, range(64)))
    assert 10_000 - 300 <= spent <= 10_000


def test_a_call_waits_for_what_those_under_way_give_back() -> None:
    """A reservation lasts only for its call, so another call waits for the rest of it instead of being cut."""
    budget = Budget(1_000)
    _, reserved = budget.reserve(a_call(most=90), output_only)
    made = list[int]()
    sibling = threading.Thread(target=lambda: made.append(budget.reserve(a_call(most=90), output_only)[1].microusd))
    sibling.start()
    sibling.join(0.1)
    assert made == []

    budget.settle(reserved, 50)
    sibling.join(WAIT_S)

    assert made == [900]


def test_what_does_not_come_back_ends_the_wait() -> None:
    """The running call ends without a known cost, so the waiting call is cut to what is left, or refused."""
    budget = Budget(1_000)
    budget.reserve(a_call(most=80), output_only)
    found = list[object]()

    def reserve() -> None:
        try:
            found.append(budget.reserve(a_call(most=90), output_only)[0].max_output_tokens)
            budget.reserve(a_call(most=90), output_only)
        except LimitReached:
            found.append(LimitReached)

    sibling = threading.Thread(target=reserve)
    sibling.start()
    budget.withhold()
    sibling.join(0.2)
    assert found == [19]
    budget.withhold()
    sibling.join(WAIT_S)

    assert found == [19, LimitReached]
