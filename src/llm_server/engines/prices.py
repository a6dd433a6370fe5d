"""Compute the cost of a call in whole micro-USD, rounded up. USD per million tokens equals micro-USD per token."""

from __future__ import annotations

import time
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec
from llm_server.orchestration.domain.engines.usage import Usage

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation, TieredPrices

RATES_AGE_S = 60
"""How long listed prices are kept, in seconds. Some change with the time of day, at whole minutes."""

_WRITE, _WRITE_1H = Decimal("1.25"), Decimal(2)
"""How many times the price of plain input it costs to write to the cache, if the configuration has no price for it."""
_MICROUSD_PER_1000_CALLS = 1_000
"""1 USD for 1,000 calls is 1,000 micro-USD for a call."""


class Rate(Struct, frozen=True, kw_only=True):
    """The price of a token, in micro-USD. `tiers` are the thresholds and prices for long prompts, lowest first.

    The price of a tier holds for all tokens of a call whose input has more tokens than the threshold.
    """

    price: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, tokens_in: int) -> Decimal:
        """Return the price of a token in a call with this many tokens of input, those of the cache included."""
        return next((price for start, price in reversed(self.tiers) if tokens_in > start), self.price)


class Rates(Struct, frozen=True, kw_only=True):
    """The price of each class of tokens, and the fixed price of a call in micro-USD."""

    input: Rate
    cache_read: Rate
    cache_write: Rate
    cache_write_1h: Rate
    output: Rate
    reasoning: Rate
    call: Decimal = Decimal(0)

    def cost(self, usage: Usage) -> int:
        """Return the cost of a call in micro-USD, rounded up."""
        counts = (
            (self.input, usage.input_tokens),
            (self.cache_read, usage.cache_read_tokens),
            (self.cache_write, usage.cache_write_tokens),
            (self.cache_write_1h, usage.cache_write_1h_tokens),
            (self.output, usage.output_tokens - usage.reasoning_tokens),
            (self.reasoning, usage.reasoning_tokens),
        )
        total = sum((rate.at(usage.tokens_in) * tokens for rate, tokens in counts if tokens), self.call)
        return int(total.to_integral_value(rounding=ROUND_CEILING))


def price(spec: EngineSpec, usage: Usage) -> int | None:
    """Return the cost of a call: 0 for a local engine, else by the configured price, else by the price library.

    Returns None if the price is unknown. The library (genai-prices, by Pydantic) works offline. It is imported when
    it is first used, because the import takes 0.5 s.
    """
    if spec.source == "local":
        return 0
    rates = _configured(spec.price) if spec.price else _listed(spec, int(time.time() // RATES_AGE_S))
    return None if rates is None else rates.cost(usage)


@lru_cache(maxsize=256)
def _configured(given: EnginePrice) -> Rates:
    """Return the prices of a configuration; `EnginePrice` says what a price is that was not given."""
    plain = _exact(given.input)
    return _rates(
        Rate(price=plain),
        Rate(price=_exact(given.output)),
        cache_read=Rate(price=plain if given.cached_input is None else _exact(given.cached_input)),
        cache_write=Rate(price=plain * _WRITE if given.cache_write is None else _exact(given.cache_write)),
        cache_write_1h=Rate(price=plain * _WRITE_1H if given.cache_write_1h is None else _exact(given.cache_write_1h)),
    )


@lru_cache(maxsize=256)
def _listed(spec: EngineSpec, _period: int) -> Rates | None:
    """Return the prices of the price library; None if it does not know the model.

    A class without a price of its own costs as much as the class that contains it.
    """
    provider = _provider(spec)
    found = _found(spec, provider) if provider else None
    if found is None:
        return None
    listed = found.model_price
    plain, output = _rate(listed.input_mtok), _rate(listed.output_mtok)
    if plain is None or output is None:
        free = Rate(price=Decimal(0))
        return _rates(free, free) if found.model.id.endswith(":free") else None
    per_1000_calls = listed.requests_kcount
    return _rates(
        plain,
        output,
        cache_read=_rate(listed.cache_read_mtok),
        cache_write=_rate(listed.cache_write_5m_mtok) or _rate(listed.cache_write_mtok),
        cache_write_1h=_rate(listed.cache_write_1h_mtok),
        reasoning=_rate(listed.output_reasoning_mtok),
        call=per_1000_calls * _MICROUSD_PER_1000_CALLS if isinstance(per_1000_calls, Decimal) else Decimal(0),
    )


def _rates(
    input: Rate,
    output: Rate,
    *,
    cache_read: Rate | None = None,
    cache_write: Rate | None = None,
    cache_write_1h: Rate | None = None,
    reasoning: Rate | None = None,
    call: Decimal = Decimal(0),
) -> Rates:
    """Return the prices of all classes; one that is None costs as much as the class that contains it."""
    return Rates(
        input=input,
        cache_read=cache_read or input,
        cache_write=cache_write or input,
        cache_write_1h=cache_write_1h or cache_write or input,
        output=output,
        reasoning=reasoning or output,
        call=call,
    )


def _rate(listed: Decimal | TieredPrices | None) -> Rate | None:
    if listed is None or isinstance(listed, Decimal):
        return None if listed is None else Rate(price=listed)
    return Rate(price=listed.base, tiers=tuple((tier.start, tier.price) for tier in listed.tiers))


def _provider(spec: EngineSpec) -> dict[str, Any]:
    """Return the provider whose prices apply: the configured one, AWS for Bedrock, else the owner of the `base_url`."""
    if spec.price_provider:
        return {"provider_id": spec.price_provider}
    if spec.kind == "bedrock":
        return {"provider_id": "aws"}
    return {"provider_api_url": spec.base_url} if spec.base_url else {}


def _found(spec: EngineSpec, provider: dict[str, Any]) -> PriceCalculation | None:
    """Return what the price library knows about an engine's model; None if it does not know it."""
    from genai_prices import Usage as ListedUsage
    from genai_prices import calc_price

    model = spec.model.rsplit("/", 1)[-1] if spec.model.startswith("arn:") else spec.model
    try:
        return calc_price(ListedUsage(input_tokens=1, output_tokens=1), model, **provider)
    except (LookupError, ValueError):
        return None


def _exact(price: float) -> Decimal:
    """Return a configured price as it is written in the file; the float itself may be off in its last digits."""
    return Decimal(str(price))
