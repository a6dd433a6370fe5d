"""Compute the highest possible cost of an engine call, and lower its output limit to fit the money that is left."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import LimitReached

MIN_OUTPUT_TOKENS = 16
"""A call's output limit is not lowered below this, because a shorter answer is of no use."""

PER_DAY = "usd_per_day"
"""The name of an API key's limit in the HTTP API."""

_WIRE_TOKENS = 64
"""Tokens that an engine's API adds to the texts: roles and separators."""

Price = Callable[[Usage], int | None]
"""Takes the tokens of a call, returns micro-USD, rounded up; None if the price is unknown."""


class Reservation(Struct, frozen=True, kw_only=True):
    """The amount reserved for a call: 0 if its price is unknown, which only a task without limits allows.

    `name` identifies it in the ledger; "" if the ledger was not charged.
    """

    microusd: int = 0
    name: str = ""
    is_priced: bool = True

    @property
    def worst_case_microusd(self) -> int | None:
        """The highest possible cost of the call; None if its price is unknown."""
        return self.microusd if self.is_priced else None


def fit(call: EngineCall, price: Price, left_microusd: int | None, limit: str) -> tuple[EngineCall, int]:
    """Lower a call's output limit until its highest possible cost fits into `left_microusd`; None means no limit.

    `limit` is the limit's name for the error message. Returns the call and its highest possible cost in micro-USD.

    Raises:
        LimitReached: even a short answer could cost more than is left, or the price is unknown.
    """
    fixed, worst = worst_case(replace(call, max_output_tokens=0), price), worst_case(call, price)
    if fixed is None or worst is None:
        raise LimitReached(f"The engine's price is unknown, so {limit} cannot be enforced.")
    if left_microusd is not None and worst > left_microusd:
        share = max(0, left_microusd - fixed) / (worst - fixed) if worst > fixed else 0.0
        call = replace(call, max_output_tokens=max(0, int(call.max_output_tokens * share) - 1))
        worst = worst_case(call, price) or 0
        if worst > left_microusd or call.max_output_tokens < MIN_OUTPUT_TOKENS:
            raise LimitReached(f"The next engine call could cost more than is left of {limit}.")
    return call, worst


def worst_case(call: EngineCall, price: Price) -> int | None:
    """Return the highest possible cost of a call in micro-USD; None if the price is unknown.

    The engine decides which input it writes to its prompt cache, and writing costs more than plain input: 1.25 times as
    much for most engines, twice as much for an hour.
    """
    tokens_in, tokens_out = max_tokens_in(call), call.max_output_tokens + call.max_reasoning_tokens
    classes = (
        Usage(input_tokens=tokens_in, output_tokens=tokens_out),
        Usage(cache_write_tokens=tokens_in, output_tokens=tokens_out),
        Usage(cache_write_1h_tokens=tokens_in, output_tokens=tokens_out),
    )
    costs = [cost for usage in classes if (cost := price(usage)) is not None]
    return max(costs) if costs else None


def max_tokens_in(call: EngineCall) -> int:
    """Return an upper bound of a call's input tokens.

    It is one for each UTF-8 byte of its texts, answer schema and tools, and the most that its images may cost.
    """
    schema = msgspec.json.encode(call.answer_schema.schema) if call.answer_schema else b""
    tools = msgspec.json.encode(call.tools) if call.tools else b""
    return len(call.texts.encode()) + len(schema) + len(tools) + call.image_tokens + _WIRE_TOKENS
