"""The receipt is the exact sum of the attempts; a call without a known price is counted as unpriced, never as 0."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.receipt import Attempt, Receipt
from support.builders import a_failed_attempt, an_attempt

attempts = st.lists(
    st.builds(
        an_attempt,
        source=st.sampled_from(["local", "api"]),
        tokens_in=st.integers(0, 10**9),
        tokens_out=st.integers(0, 10**9),
        duration_ms=st.integers(1, 10**6),
        cost_microusd=st.none() | st.integers(0, 10**12),
    )
    | st.builds(a_failed_attempt, duration_ms=st.integers(0, 10**6)),
    max_size=20,
)


def test_only_answered_calls_count_as_calls() -> None:
    """Speeds and response times are computed from answered calls; failed calls are counted separately."""
    receipt = Receipt().plus([an_attempt(duration_ms=400), a_failed_attempt(duration_ms=9_000)])

    assert (receipt.calls, receipt.failed_calls, receipt.api_calls) == (1, 1, 1)
    assert (receipt.duration_ms, receipt.tokens_in, receipt.tokens_out) == (400, 10, 20)


def test_an_unpriced_call_is_counted_without_a_cost() -> None:
    """A model that the price library does not know is unpriced, never free."""
    receipt = Receipt().plus([an_attempt(cost_microusd=None), an_attempt(cost_microusd=5)])

    assert (receipt.unpriced_calls, receipt.cost_microusd, receipt.calls) == (1, 5, 2)


def test_a_call_of_a_local_engine_does_not_count_as_an_api_call() -> None:
    """`api_costs` covers engines that cost money."""
    assert Receipt().plus([an_attempt(source="local", cost_microusd=0)]).api_calls == 0


def test_the_cost_of_a_failed_call_is_added() -> None:
    """The receipt includes all known spending."""
    assert Receipt().plus([a_failed_attempt(cost_microusd=7)]).cost_microusd == 7


@given(attempts, st.integers(0, 20))
def test_adding_attempts_in_parts_gives_the_same_sum(made: list[Attempt], cut: int) -> None:
    """Attempts are added step by step over several deliveries."""
    assert Receipt().plus(made[:cut]).plus(made[cut:]) == Receipt().plus(iter(made))
