"""What engine calls used and cost: the attempt is one call, the receipt is the sum of attempts.

Money is integer micro-USD, shown in USD. A call whose price is unknown is *unpriced* (`None`), never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.catalog import Source
from llm_server.orchestration.domain.errors import EngineFailureKind
from llm_server.orchestration.domain.event_numbers import FIRST_CALL

MICROUSD_PER_USD = 1_000_000

FailureKind = EngineFailureKind | Literal["refused", "empty", "cancelled", "lost"]
"""Why an engine call failed: the kinds of `EngineUnavailable`, a refused prompt, an empty answer, a cancelled task.

`lost`: the worker of the call died.
"""

LOST_CALL = "The worker died before it stored the outcome of this call; the engine may bill the call."


class Attempt(Struct, frozen=True, kw_only=True):
    """One engine call: what it used, or why it failed.

    `purpose` says what the call was made for in one word, such as `plan` or `answer`. For a step of a plan, the step's
    id follows: `verdict s1`. `why` is a sentence for people that says why this engine was chosen. `failover_from` names
    the engine whose failure this call follows. `probe` marks a call that tests whether a rested engine works again.
    `tier` is what the engine is configured for. `first_text_ms` is how long the call took until the first piece of its
    text came; None if the text was not streamed, or none came. `truncated` marks an answer that was cut at its limit.

    `tokens_in` counts all tokens of the input. Of these, `cache_read_tokens` were read from the engine's prompt cache
    and `cache_write_tokens` were written to it, `cache_write_1h_tokens` of them for an hour. `reasoning_tokens` are a
    part of `tokens_out`. `usage_estimated` marks token counts that the engine did not report. `usage_implausible` marks
    counts that cannot be true and were replaced by what the call could use at the most.

    `fault` is the fault that the answer gate found in the answer. Such a call is paid for too. After a cheap engine's
    call, the next attempt is the call of a strong engine, if one could be asked. `error` says why a call failed,
    `failure` its kind as a word (None in records of 0.1.0). `demonstration` marks a call of the demonstration engine or
    the embedded engine.

    `cost_microusd` is None when the call is unpriced. A failed call costs 0, unless the engine billed it (an empty or a
    refused answer). `withheld_microusd` stays reserved from the task's money because it is unknown what the engine
    charges: the call was late, broke off, did not report its tokens, or its worker died.

    `number` is the number of the event that began the call; 0 stands for `FIRST_CALL`. `end_number` is that of the
    event that ended it; 0 if it follows from the output that holds the call.
    """

    engine: str
    model: str
    source: Source
    purpose: str
    started_ms: int
    duration_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    usage_implausible: bool = False
    truncated: bool = False
    fault: str | None = None
    tier: Literal["fast", "strong"] | None = None
    why: str = ""
    failover_from: str | None = None
    probe: bool = False
    cost_microusd: int | None = 0
    withheld_microusd: int = 0
    error: str | None = None
    failure: FailureKind | None = None
    demonstration: bool = False
    first_text_ms: int | None = None
    number: int = 0
    end_number: int = 0
    turns_dropped: int = 0

    @property
    def answered(self) -> bool:
        return self.error is None

    @property
    def is_lost(self) -> bool:
        """Whether the worker died before it stored the outcome of the call. The engine may not have been asked."""
        return self.failure == "lost"

    def numbered(self, number: int) -> Attempt:
        """Return the attempt with the number of the event that began it."""
        return replace(self, number=0 if number == FIRST_CALL else number)

    @property
    def event_number(self) -> int:
        """The number of the event that began the call."""
        return self.number or FIRST_CALL

    def lost(self, withheld_microusd: int | None) -> Attempt:
        """Return the attempt of a call that was announced, as it is booked if its worker dies.

        `withheld_microusd` is its highest possible cost; None if its price is unknown.
        """
        cost = None if withheld_microusd is None else 0
        withheld = withheld_microusd or 0
        return replace(self, error=LOST_CALL, failure="lost", cost_microusd=cost, withheld_microusd=withheld)

    @property
    def step_id(self) -> str:
        """The id of the step that the call was made for; "" if it was not made for a step."""
        return self.purpose.partition(" ")[2]


class Receipt(Struct, frozen=True, kw_only=True):
    """The sum of attempts. `calls`, `duration_ms` and the tokens count answered calls; `failed_calls` the others.

    `tokens_in` counts all tokens of the input, those of the prompt cache included.
    """

    calls: int = 0
    failed_calls: int = 0
    api_calls: int = 0
    unpriced_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    duration_ms: int = 0
    cost_microusd: int = 0

    def plus(self, attempts: Iterable[Attempt]) -> Receipt:
        """Return the receipt with more attempts added."""
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
    """Format an amount of at least 0 as exact USD: `1234567.89`, `0.000001`, `5`."""
    whole, rest = divmod(microusd, MICROUSD_PER_USD)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
