"""The terms of an engine call: what it is for and what bounds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.catalog import Tier
from llm_server.orchestration.domain.engine_call import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTerms:
    """What a call is for and what bounds it. `until_ms` (Unix milliseconds): no call goes on after it.

    `engine` names the one engine that may be asked; None leaves the choice to the balancer. `fault` is the answer gate:
    it returns what is wrong with a completion, in a short phrase, or None. Unless the call `escalates`, an answer of a
    cheap engine, even an empty one, is never asked for again of a strong engine.
    """

    purpose: str
    tier: Tier
    until_ms: int
    engine: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(None))
    escalates: bool = True
    fault: Callable[[Completion], str | None] | None = None

    def left_s(self, now_ms: int) -> float:
        """Seconds until `until_ms`; negative after it."""
        return (self.until_ms - now_ms) / 1000
