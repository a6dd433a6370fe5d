"""What is left of a task's money: set aside before a call, settled after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import msgspec

from llm_server.orchestration.errors import LimitReached
from llm_server.orchestration.metrics import MICROUSD_PER_USD
from llm_server.orchestration.ports import EngineCall

LEAST_OUTPUT_TOKENS = 16
"""A call is not cut to fewer: so short an answer is worth nothing."""

_WIRE_TOKENS = 64
"""What an API puts round the texts: roles, separators."""


class Budget:
    """What is left of a task's `max_cost_usd`, shared by its parallel calls; None is no limit."""

    def __init__(self, left_microusd: int | None) -> None:
        self._left = left_microusd
        self._lock = threading.Lock()

    @classmethod
    def of(cls, max_cost_usd: float | None, spent_microusd: int) -> Budget:
        if max_cost_usd is None:
            return cls(None)
        return cls(int(max_cost_usd * MICROUSD_PER_USD) - spent_microusd)

    def reserve(self, call: EngineCall, price: Callable[[int, int], int | None]) -> tuple[EngineCall, int]:
        """Set the worst case of a call aside, its output limit cut to what is left.

        Returns the call to make and the micro-USD set aside.

        Raises:
            LimitReached: the call cannot fit, or nobody knows what it would cost.
        """
        if self._left is None:
            return call, 0
        tokens_in = _most_tokens_in(call)
        with self._lock:
            fixed, worst = price(tokens_in, 0), price(tokens_in, call.max_output_tokens)
            if fixed is None or worst is None:
                raise LimitReached("The engine's price is unknown, so max_cost_usd cannot be kept.")
            if worst > self._left:
                share = max(0, self._left - fixed) / (worst - fixed) if worst > fixed else 0.0
                call = replace(call, max_output_tokens=max(0, int(call.max_output_tokens * share) - 1))
                worst = price(tokens_in, call.max_output_tokens) or 0
                if worst > self._left or call.max_output_tokens < LEAST_OUTPUT_TOKENS:
                    raise LimitReached("The next engine call could cost more than is left of max_cost_usd.")
            self._left -= worst
            return call, worst

    def settle(self, reserved_microusd: int, cost_microusd: int) -> None:
        """Give back what a call did not cost."""
        if self._left is not None:
            with self._lock:
                self._left += reserved_microusd - cost_microusd


def _most_tokens_in(call: EngineCall) -> int:
    """The most tokens a call's texts can have: one a UTF-8 byte. An answer's schema is sent along and counts."""
    schema = msgspec.json.encode(call.answer_schema.schema) if call.answer_schema else b""
    return len(call.system.encode()) + len(call.prompt.encode()) + len(schema) + _WIRE_TOKENS
