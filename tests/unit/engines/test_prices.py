"""Costs are exact and rounded up, and an unknown price is not 0."""

from typing import Any

import pytest

from llm_server.engines.discovery import ANTHROPIC, EMBEDDED, OPENAI
from llm_server.engines.prices import price
from llm_server.orchestration.domain.catalog import EnginePrice, EngineSpec


def api(**changes: Any) -> EngineSpec:
    return EngineSpec(**({"kind": "openai", "source": "api", "model": "m"} | changes))


def test_a_local_engine_costs_nothing() -> None:
    assert price(api(source="local", base_url="https://api.openai.com/v1", model="gpt-5-mini"), 10**9, 10**9) == 0
    assert price(EMBEDDED, 1, 1) == 0


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
    assert price(api(price=EnginePrice(input=0.1, output=0.2)), tokens_in, tokens_out) == microusd


def test_a_configured_price_goes_before_the_listed_one() -> None:
    spec = api(model="gpt-5-mini", base_url="https://api.openai.com/v1", price=EnginePrice(input=7, output=0))

    assert price(spec, 1, 0) == 7


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
    assert price(spec, 1000, 10) == microusd


def test_the_models_chosen_without_configuration_have_a_price() -> None:
    for spec in (OPENAI, ANTHROPIC):
        cost = price(spec, 1000, 1000)
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
    assert price(spec, 1000, 10) is None


def test_a_model_that_is_listed_as_free_is_free() -> None:
    assert price(api(model="openai/gpt-oss-20b:free", base_url="https://openrouter.ai/api/v1"), 1000, 10) == 0


@pytest.mark.parametrize(("tokens_in", "microusd"), [(200_000, 250_010), (200_001, 500_018)])
def test_a_long_prompt_may_cost_more_for_each_token(tokens_in: int, microusd: int) -> None:
    """The listed price of this model doubles above 200,000 tokens, so no rate of an earlier call may be kept for it."""
    assert price(api(model="gemini-2.5-pro", price_provider="google"), tokens_in, 1) == microusd
