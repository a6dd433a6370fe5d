"""What engine calls used and cost: the attempt (one call) and the receipt (their sum).

Money is integer micro-USD, shown in USD. A call whose price is unknown is *unpriced* (`None`), never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MICROUSD_PER_USD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One engine call: what it used, or why it failed.

    `purpose` is a word for what it was made: `plan`, `answer`; for a step of a plan, a word and the step: `verdict s1`.
    `why` is a sentence for people that says why this engine was chosen; `failover_from` names the engine whose failure
    this call follows, `probe` marks a call that finds out whether an engine that has rested is well again. `tier` is
    what the engine is configured for. `usage_estimated` marks token counts the engine did not report, `truncated` an
    answer that its limit cut. `fault` is what the answer gate found in an answer; it is paid for all the same, and the
    next attempt is the strong engine asked instead, where one could be asked. `cost_microusd` is None when the call is
    unpriced; a failed call costs 0, unless the engine billed it (an empty answer, one it declined to give).
    `withheld_microusd` is what stays set aside of the task's money because it is unknown what the engine charges: it
    was late or broke off, or did not report its tokens.
    """

    engine: str
    model: str
    source: Literal["local", "api"]
    purpose: str
    started_ms: int
    duration_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    usage_estimated: bool = False
    truncated: bool = False
    fault: str | None = None
    tier: Literal["fast", "strong"] | None = None
    why: str = ""
    failover_from: str | None = None
    probe: bool = False
    cost_microusd: int | None = 0
    withheld_microusd: int = 0
    error: str | None = None

    @property
    def answered(self) -> bool:
        return self.error is None

    @property
    def step_id(self) -> str:
        """The step it was made for, "" for none."""
        return self.purpose.partition(" ")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The sum of attempts. `calls`, `duration_ms` and the tokens count answered calls; `failed_calls` the others."""

    calls: int = 0
    failed_calls: int = 0
    api_calls: int = 0
    unpriced_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    duration_ms: int = 0
    cost_microusd: int = 0

    def plus(self, attempts: Iterable[Attempt]) -> Receipt:
        """Add attempts to what is here."""
        new = list(attempts)
        answered = [a for a in new if a.answered]
        return Receipt(
            calls=self.calls + len(answered),
            failed_calls=self.failed_calls + len(new) - len(answered),
            api_calls=self.api_calls + sum(a.source == "api" for a in answered),
            unpriced_calls=self.unpriced_calls + sum(a.cost_microusd is None for a in new),
            tokens_in=self.tokens_in + sum(a.tokens_in for a in answered),
            tokens_out=self.tokens_out + sum(a.tokens_out for a in answered),
            duration_ms=self.duration_ms + sum(a.duration_ms for a in answered),
            cost_microusd=self.cost_microusd + sum(a.cost_microusd or 0 for a in new),
        )


def usd(microusd: int) -> str:
    """An amount of at least 0 in USD, exact and plain: `1234567.89`, `0.000001`, `5`."""
    whole, rest = divmod(microusd, MICROUSD_PER_USD)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
