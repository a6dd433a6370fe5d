"""Compute the cost of a call in whole micro-USD, rounded up. USD per million tokens equals micro-USD per token."""

from __future__ import annotations

import time
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

RATES_AGE_S = 60
"""How long listed prices are kept, in seconds. Some change with the time of day, at whole minutes."""


def price(spec: EngineSpec, tokens_in: int, tokens_out: int) -> int | None:
    """Return the cost of a call: 0 for a local engine, else by the configured price, else by the price library.

    Returns None if the price is unknown. The library (genai-prices, by Pydantic) works offline. It is imported when
    it is first used, because the import takes 0.5 s.
    """
    if spec.source == "local":
        return 0
    if spec.price:
        usd = Decimal(str(spec.price.input)) * tokens_in + Decimal(str(spec.price.output)) * tokens_out
        return _rounded_up(usd)
    provider = _provider(spec)
    return _listed(spec, provider, tokens_in, tokens_out) if provider else None


def _provider(spec: EngineSpec) -> dict[str, Any]:
    """Return the provider whose prices apply: the configured one, AWS for Bedrock, else the owner of the `base_url`."""
    if spec.price_provider:
        return {"provider_id": spec.price_provider}
    if spec.kind == "bedrock":
        return {"provider_id": "aws"}
    return {"provider_api_url": spec.base_url} if spec.base_url else {}


def _listed(spec: EngineSpec, provider: dict[str, Any], tokens_in: int, tokens_out: int) -> int | None:
    rates = _flat_rates(spec, int(time.time() // RATES_AGE_S))
    if rates is None:
        return _calculated(spec, provider, tokens_in, tokens_out)
    return _rounded_up(rates[0] * tokens_in + rates[1] * tokens_out)


@lru_cache(maxsize=256)
def _flat_rates(spec: EngineSpec, _period: int) -> tuple[Decimal, Decimal] | None:
    """Return the listed prices of a token in and a token out, in micro-USD.

    Returns None if the cost is not their sum: the price is unknown, depends on the prompt's length, or has a part for
    each request.
    """
    listed = _found(spec, _provider(spec), 1, 1)
    if listed is None or listed.model_price.requests_kcount is not None:
        return None
    rate_in, rate_out = listed.model_price.input_mtok, listed.model_price.output_mtok
    return (rate_in, rate_out) if isinstance(rate_in, Decimal) and isinstance(rate_out, Decimal) else None


def _calculated(spec: EngineSpec, provider: dict[str, Any], tokens_in: int, tokens_out: int) -> int | None:
    found = _found(spec, provider, tokens_in, tokens_out)
    if found is None:
        return None
    listed = found.model_price
    if listed.input_mtok is None or listed.output_mtok is None:
        return 0 if found.model.id.endswith(":free") else None
    return _rounded_up(found.total_price * MICROUSD_PER_USD)


def _found(spec: EngineSpec, provider: dict[str, Any], tokens_in: int, tokens_out: int) -> PriceCalculation | None:
    from genai_prices import Usage, calc_price

    model = spec.model.rsplit("/", 1)[-1] if spec.model.startswith("arn:") else spec.model
    try:
        return calc_price(Usage(input_tokens=tokens_in, output_tokens=tokens_out), model, **provider)
    except (LookupError, ValueError):
        return None


def _rounded_up(microusd: Decimal) -> int:
    return int(microusd.to_integral_value(rounding=ROUND_CEILING))
