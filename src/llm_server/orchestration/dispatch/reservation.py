"""What is set aside for one engine call: its worst case, cut to what a limit leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.errors import LimitReached

MIN_OUTPUT_TOKENS = 16
"""A call is not cut to fewer: so short an answer is worth nothing."""

PER_DAY = "usd_per_day"
"""The limit of a key, as callers know it."""

_WIRE_TOKENS = 64
"""What an API puts round the texts: roles, separators."""

Price = Callable[[int, int], int | None]
"""(tokens in, tokens out) -> micro-USD; None when the price is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What was set aside for a call; `name` is the ledger's, "" where nothing was charged there."""

    microusd: int = 0
    name: str = ""


def fit(call: EngineCall, price: Price, left_microusd: int | None, limit: str) -> tuple[EngineCall, int]:
    """Cut a call's output limit to what is left of `limit` (None: do not cut); returns the call and its worst case.

    Raises:
        LimitReached: even a short answer could cost more than is left, or the price is unknown.
    """
    tokens_in = _max_tokens_in(call)
    fixed, worst = price(tokens_in, 0), price(tokens_in, call.max_output_tokens)
    if fixed is None or worst is None:
        raise LimitReached(f"The engine's price is unknown, so {limit} cannot be kept.")
    if left_microusd is not None and worst > left_microusd:
        share = max(0, left_microusd - fixed) / (worst - fixed) if worst > fixed else 0.0
        call = replace(call, max_output_tokens=max(0, int(call.max_output_tokens * share) - 1))
        worst = price(tokens_in, call.max_output_tokens) or 0
        if worst > left_microusd or call.max_output_tokens < MIN_OUTPUT_TOKENS:
            raise LimitReached(f"The next engine call could cost more than is left of {limit}.")
    return call, worst


def _max_tokens_in(call: EngineCall) -> int:
    """The most tokens a call's texts can have: one a UTF-8 byte. An answer's schema is sent along and counts."""
    schema = msgspec.json.encode(call.answer_schema.schema) if call.answer_schema else b""
    return len(call.system.encode()) + len(call.prompt.encode()) + len(schema) + _WIRE_TOKENS
