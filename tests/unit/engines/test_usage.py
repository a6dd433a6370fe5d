"""The token counts of every vendor are read and priced as the vendor bills them, and nonsense never breaks a call."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.engines.prices import price
from llm_server.engines.usage import MAX_TOKENS, ReportedUsage, chat_usage, converse_usage, messages_usage
from llm_server.orchestration.domain.engines.usage import Usage
from support.vendor_usage import CLAUDE_SONNET, ROWS, Row, at

READERS = (chat_usage, messages_usage, converse_usage)


@pytest.mark.parametrize("row", ROWS, ids=[row.source for row in ROWS])
def test_a_vendors_usage_costs_what_the_vendor_bills(row: Row) -> None:
    """The table's own arithmetic is checked first: a slip in it must not look like a price."""
    by_hand = sum((tokens * Decimal(usd) for tokens, usd in row.by_hand), Decimal(0))
    assert by_hand.to_integral_value(rounding=ROUND_CEILING) == row.microusd

    usage = row.read(row.answer).completed(tokens_in=0, tokens_out=0)

    plain, read, written, written_1h, output, reasoning = row.tokens
    assert usage == Usage(
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=written_1h,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )
    assert price(row.engine, usage) == row.microusd


def test_the_table_has_every_vendor_that_the_reader_names() -> None:
    assert len(ROWS) >= 20
    assert {row.source.partition(",")[0].split()[0] for row in ROWS} >= {
        *("OpenAI", "Azure", "OpenRouter", "DeepSeek", "xAI", "Groq", "Mistral", "Google", "Moonshot", "LiteLLM"),
        *("vLLM", "Ollama", "llama.cpp", "Anthropic", "Amazon"),
    }


@pytest.mark.parametrize("nonsense", [-1, True, "12", 1.5, [1], {"n": 1}, float("inf"), -0.5])
def test_a_value_that_is_no_count_is_flagged_and_estimated(nonsense: object) -> None:
    reported = chat_usage({"usage": {"prompt_tokens": nonsense, "completion_tokens": 7}})

    assert reported.completed(tokens_in=5, tokens_out=0) == Usage(
        input_tokens=5, output_tokens=7, estimated=True, implausible=True
    )


@pytest.mark.parametrize("huge", [MAX_TOKENS + 1, 10**19, 1e12])
def test_a_count_beyond_any_call_is_read_as_the_largest_one(huge: float) -> None:
    """So it is limited to what its call could use. If it were left out, the call would be priced by an estimate."""
    reported = chat_usage({"usage": {"prompt_tokens": 5, "completion_tokens": huge}})

    assert reported.completed(tokens_in=0, tokens_out=3) == Usage(
        input_tokens=5, output_tokens=MAX_TOKENS, implausible=True
    )


def test_a_count_may_be_written_as_a_float() -> None:
    reported = chat_usage({"usage": {"prompt_tokens": 12.0, "completion_tokens": 7.0}})

    assert reported.completed(tokens_in=0, tokens_out=0) == Usage(input_tokens=12, output_tokens=7)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_counts_that_are_missing_are_estimated_but_not_implausible(usage: object) -> None:
    reported = chat_usage({"usage": usage})

    assert reported.completed(tokens_in=5, tokens_out=3) == Usage(input_tokens=5, output_tokens=3, estimated=True)


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        # More cached tokens than input: all of it is plain input, which costs more.
        (
            ReportedUsage(tokens_in=10, tokens_out=1, cache_read_tokens=11),
            Usage(input_tokens=10, output_tokens=1, implausible=True),
        ),
        # More written than input: all of it is written.
        (
            ReportedUsage(tokens_in=10, tokens_out=1, cache_write_tokens=12),
            Usage(cache_write_tokens=10, output_tokens=1, implausible=True),
        ),
        # More written for an hour than written: all of it is for an hour.
        (
            ReportedUsage(tokens_in=10, tokens_out=1, cache_write_tokens=4, cache_write_1h_tokens=5),
            Usage(input_tokens=6, cache_write_1h_tokens=4, output_tokens=1, implausible=True),
        ),
        (
            ReportedUsage(tokens_in=10, tokens_out=1, reasoning_tokens=2),
            Usage(input_tokens=10, output_tokens=1, reasoning_tokens=1, implausible=True),
        ),
        # Without a total, its parts are of no use.
        (
            ReportedUsage(tokens_out=1, cache_read_tokens=2),
            Usage(input_tokens=3, output_tokens=1, estimated=True),
        ),
    ],
)
def test_parts_that_contradict_their_total_are_read_at_the_higher_price(reported: ReportedUsage, usage: Usage) -> None:
    assert reported.completed(tokens_in=3, tokens_out=0) == usage


COUNT = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=3), st.lists(st.integers())
)
DETAILS = st.dictionaries(
    st.sampled_from(
        ["cached_tokens", "cache_write_tokens", "reasoning_tokens", "thinking_tokens", "ephemeral_1h_input_tokens"]
    ),
    COUNT,
)
NAMES = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens", "cache_creation_input_tokens"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens"),
    *("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
    *("prompt_tokens_details", "completion_tokens_details", "output_tokens_details", "cache_creation", "cacheDetails"),
)
USAGES = st.dictionaries(st.sampled_from(NAMES), st.one_of(COUNT, DETAILS, st.lists(DETAILS, max_size=2)))


@given(
    read=st.sampled_from(READERS),
    answer=st.fixed_dictionaries({"usage": st.one_of(COUNT, USAGES), "timings": st.one_of(COUNT, USAGES)}),
)
def test_nothing_that_an_engine_sends_breaks_the_reading_or_makes_a_cost_negative(
    read: Callable[[dict[str, Any]], ReportedUsage], answer: dict[str, Any]
) -> None:
    usage = read(answer).completed(tokens_in=4, tokens_out=2)

    counts = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens)
    assert min(*counts, usage.reasoning_tokens) >= 0
    assert usage.reasoning_tokens <= usage.output_tokens
    assert (price(at(CLAUDE_SONNET), usage) or 0) >= 0
