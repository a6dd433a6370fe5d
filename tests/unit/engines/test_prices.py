"""Costs are exact and rounded up, and an unknown price is not 0."""

from decimal import ROUND_CEILING
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from genai_prices.data import providers
from msgspec.structs import replace

from llm_server.engines.discovery import ANTHROPIC, EMBEDDED, OPENAI
from llm_server.engines.prices import price
from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec
from llm_server.orchestration.domain.engines.usage import Usage
from support.scripted_engine import a_usage

VENDORS = {"openai", "anthropic", "aws", "google", "x-ai", "deepseek", "groq", "mistral", "perplexity", "moonshotai"}


def api(**changes: Any) -> EngineSpec:
    return EngineSpec(**({"kind": "openai", "source": "api", "model": "m"} | changes))


def test_a_local_engine_costs_nothing() -> None:
    assert (
        price(api(source="local", base_url="https://api.openai.com/v1", model="gpt-5-mini"), a_usage(10**9, 10**9)) == 0
    )
    assert price(EMBEDDED, a_usage(1, 1)) == 0


@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "microusd"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 1),
        (10, 0, 1),
        (11, 0, 2),
        (1000, 1000, 300),
        (3, 0, 1),
        (10**12, 0, 10**11),
    ],
)
def test_a_configured_price_is_exact_and_rounded_up(tokens_in: int, tokens_out: int, microusd: int) -> None:
    """0.1 is not exact as a float: 3 times it is more than 0.3, so 10 times it would round up to 2."""
    assert price(api(price=EnginePrice(input=0.1, output=0.2)), a_usage(tokens_in, tokens_out)) == microusd


def test_a_configured_price_goes_before_the_listed_one() -> None:
    spec = api(model="gpt-5-mini", base_url="https://api.openai.com/v1", price=EnginePrice(input=7, output=0))

    assert price(spec, a_usage(1, 0)) == 7


@pytest.mark.parametrize(
    ("spec", "microusd"),
    [
        (api(model="gpt-5-mini", base_url="https://api.openai.com/v1"), 270),
        (api(model="gpt-5-mini", base_url="https://mine.openai.azure.com/openai/v1"), 270),
        (api(model="gpt-5-mini", base_url="https://proxy.example/v1", price_provider="openai"), 270),
        (api(model="openai/gpt-5-mini", base_url="https://openrouter.ai/api/v1"), 270),
        (api(kind="anthropic", model="claude-haiku-4-5", base_url="https://api.anthropic.com"), 1050),
        (api(kind="bedrock", model="us.anthropic.claude-haiku-4-5-20251001-v1:0"), 1155),
        (
            api(
                kind="bedrock",
                model="arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0",
            ),
            1155,
        ),
        (api(kind="bedrock", model="amazon.nova-lite-v1:0"), 63),
    ],
)
def test_the_price_library_knows_by_address_provider_or_kind(spec: EngineSpec, microusd: int) -> None:
    assert price(spec, a_usage(1000, 10)) == microusd


def test_the_models_chosen_without_configuration_have_a_price() -> None:
    for spec in (OPENAI, ANTHROPIC):
        cost = price(spec, a_usage(1000, 1000))
        assert cost is not None
        assert cost > 0


@pytest.mark.parametrize(
    "spec",
    [
        api(model="an-unknown-model", base_url="https://api.openai.com/v1"),
        api(model="gpt-5-mini", base_url="https://proxy.example/v1"),
        api(model="gpt-5-mini", base_url="https://api.openai.com/v1", price_provider="unknown"),
        api(model="whisper-1", base_url="https://api.openai.com/v1"),
        api(model="gpt-5-mini"),
        api(kind="bedrock", model="arn:aws:bedrock:us-east-1:1:application-inference-profile/x1y2"),
    ],
)
def test_an_unknown_model_is_unpriced_and_not_free(spec: EngineSpec) -> None:
    assert price(spec, a_usage(1000, 10)) is None


def test_a_model_that_is_listed_as_free_is_free() -> None:
    assert price(api(model="openai/gpt-oss-20b:free", base_url="https://openrouter.ai/api/v1"), a_usage(1000, 10)) == 0


CLASSES = Usage(
    input_tokens=1_000,
    cache_read_tokens=2_000,
    cache_write_tokens=300,
    cache_write_1h_tokens=40,
    output_tokens=500,
    reasoning_tokens=100,
)


def test_a_class_without_a_configured_price_is_never_too_cheap() -> None:
    """Reading from the cache costs as much as input, writing to it 1.25 and 2 times as much, reasoning is output."""
    assert price(api(price=EnginePrice(input=10, output=30)), CLASSES) == (
        1_000 * 10 + 2_000 * 10 + 300 * 12.5 + 40 * 20 + 500 * 30
    )


def test_each_class_may_have_a_configured_price() -> None:
    given = EnginePrice(input=10, cached_input=1, cache_write=11, cache_write_1h=17, output=30)

    assert price(api(price=given), CLASSES) == 1_000 * 10 + 2_000 * 1 + 300 * 11 + 40 * 17 + 500 * 30


def test_a_configured_price_of_0_is_not_a_missing_one() -> None:
    free = EnginePrice(input=10, cached_input=0, cache_write=0, cache_write_1h=0, output=30)

    assert price(api(price=free), CLASSES) == 1_000 * 10 + 500 * 30


@pytest.mark.parametrize("scale", [1, 300])
def test_every_listed_model_costs_what_the_library_computes(scale: int) -> None:
    """All models of the large vendors, with a short and a long prompt: classes, tiers, times of day, fixed prices."""
    tokens = {name: getattr(CLASSES, name) * scale for name in ("cache_read_tokens", "cache_write_1h_tokens")}
    usage = replace(
        CLASSES, **tokens, input_tokens=1_000 * scale, cache_write_tokens=300 * scale, output_tokens=500 * scale
    )
    listed = ListedUsage(
        input_tokens=usage.tokens_in,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    compared = 0
    for provider in (provider for provider in providers if provider.id in VENDORS):
        for model in provider.models:
            cost = price(api(model=model.id, price_provider=provider.id), usage)
            if cost:
                exact = calc_price(listed, model.id, provider_id=provider.id).total_price * 1_000_000
                assert cost == exact.to_integral_value(rounding=ROUND_CEILING), (provider.id, model.id)
                compared += 1
    assert compared > 200


@pytest.mark.parametrize(("tokens_in", "microusd"), [(200_000, 250_010), (200_001, 500_018)])
def test_a_long_prompt_may_cost_more_for_each_token(tokens_in: int, microusd: int) -> None:
    """The listed price of this model doubles above 200,000 tokens, so no rate of an earlier call may be kept for it."""
    assert price(api(model="gemini-2.5-pro", price_provider="google"), a_usage(tokens_in, 1)) == microusd
