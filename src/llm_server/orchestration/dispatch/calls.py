"""One engine call: its place, its probe, its price, its time; and the attempt that says how it went."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.dispatch.retry_budget import RetryBudget
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import Catalog, EngineSpec, Tier
from llm_server.orchestration.domain.engine_call import Completion, Engine, EngineCall, Pricer
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LLMServerError,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.domain.ports import Clock
from llm_server.orchestration.domain.receipt import Attempt

LEAST_CALL_S = 0.5
LISTEN_S = 0.2
"""How often those who wait for a place hear whether their task was cancelled."""
PROBE_GRACE_S = 5.0
"""How long a probe's claim outlasts its call, for what its worker writes afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a call is for and what bounds it. `until_ms` (Unix milliseconds): no call goes on after it.

    `fault` is the answer gate: what is wrong with a completion, in a short phrase, or None. Unless it `escalates`, no
    cheap engine's answer, not even an empty one, is asked for again of a strong engine.
    """

    purpose: str
    tier: Tier
    until_ms: int
    engine: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(None))
    escalates: bool = True
    fault: Callable[[Completion], str | None] | None = None


class EmptyAnswer(EngineUnavailable):
    """The engine answered with nothing. It is well and does not rest; asked again it would be paid again."""

    SENTENCE = "The engine's answer is empty."


class Calls:
    """Makes the calls of one process, which share its engines' places and its retry budget."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        engines: Mapping[str, Engine],
        fleet: Fleet,
        states: EngineStates,
        price: Pricer,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._engines = engines
        self._fleet = fleet
        self._states = states
        self._price = price
        self._clock = clock
        self._retries = RetryBudget(clock)
        self._places = {n: threading.BoundedSemaphore(s.max_concurrency) for n, s in catalog.engines.items()}

    def may_retry(self) -> bool:
        """Whether the retry budget has room for one more call after a first one."""
        return self._retries.has_room()

    def make(self, name: str, call: EngineCall, want: Want, attempts: list[Attempt]) -> Completion:
        """One call within the task's money and the engine's places; the attempt is recorded, answered or not."""
        spec = self._catalog.engines[name]
        call, reserved = want.budget.reserve(call, lambda i, o: self._price(spec, i, o))
        before = len(attempts)
        try:
            with self._place(name, want.until_ms, call.cancellation):
                completion = self._made(name, call, want, attempts, reserved.microusd)
        except LLMServerError:
            failed = attempts[before:]
            cost, withheld = sum(a.cost_microusd or 0 for a in failed), sum(a.withheld_microusd for a in failed)
            want.budget.settle(reserved, cost, withheld_microusd=withheld)
            raise
        except BaseException:
            want.budget.withhold()
            raise
        cost = attempts[-1].cost_microusd or 0
        withheld = max(0, reserved.microusd - cost) if completion.usage_estimated else 0
        attempts[-1] = replace(attempts[-1], withheld_microusd=withheld)
        want.budget.settle(reserved, cost, withheld_microusd=withheld)
        if not completion.text.strip():
            attempts[-1] = replace(attempts[-1], error=EmptyAnswer.SENTENCE)
            raise EmptyAnswer(EmptyAnswer.SENTENCE, kind="garbage")
        return completion

    def _made(
        self, name: str, call: EngineCall, want: Want, attempts: list[Attempt], reserved_microusd: int
    ) -> Completion:
        """Call the engine; the attempt is recorded while the place is held: who waits for it must see the rest."""
        spec = self._catalog.engines[name]
        left_s, most_s = self._left_s(want.until_ms), self._catalog.timeout_s(name)
        call.cancellation.check(anew=bool(attempts))
        started_ms, timeout_s = self._clock(), min(most_s, left_s)
        with self._probing(name, timeout_s) as probe:
            attempt = Attempt(
                engine=name,
                model=spec.model,
                source=spec.source,
                tier=spec.tier,
                why=_why(spec, want, attempts, probe=probe),
                purpose=want.purpose,
                started_ms=started_ms,
                duration_ms=0,
            )
            self._retries.count(retry=bool(attempts) and attempts[-1].fault is None)
            try:
                completion = self._engines[name].complete(call, timeout_s=timeout_s)
            except (EngineUnavailable, PromptRefused, TaskCancelled) as failure:
                billed = (failure.tokens_in, failure.tokens_out) if isinstance(failure, PromptRefused) else (0, 0)
                ended = replace(self._ended(attempt, spec, *billed), error=str(failure))
                withheld = max(0, reserved_microusd - (ended.cost_microusd or 0)) if failure.may_be_billed else 0
                took_ms = self._took_ms(started_ms, timeout_s)
                attempts.append(replace(ended, withheld_microusd=withheld, duration_ms=took_ms))
                late = isinstance(failure, EngineUnavailable) and failure.kind == "timeout"
                if late and left_s < most_s:
                    self._left_s(want.until_ms)  # the worker's time cut the call short: no fault of the engine
                raise
        ended = self._ended(attempt, spec, completion.tokens_in, completion.tokens_out)
        noted = replace(ended, usage_estimated=completion.usage_estimated, truncated=completion.truncated)
        attempts.append(replace(noted, duration_ms=max(1, self._took_ms(started_ms, timeout_s))))
        return completion

    def _took_ms(self, since_ms: int, most_s: float) -> int:
        """By the clock; one that was set meanwhile is believed within what a call can take, or it spoils the means."""
        return min(max(0, self._clock() - since_ms), math.ceil(most_s * 1000))

    def _ended(self, attempt: Attempt, spec: EngineSpec, tokens_in: int, tokens_out: int) -> Attempt:
        """What a call used and cost; nothing used costs nothing, whatever the price."""
        cost = self._price(spec, tokens_in, tokens_out) if tokens_in or tokens_out else 0
        return replace(attempt, tokens_in=tokens_in, tokens_out=tokens_out, cost_microusd=cost)

    @contextmanager
    def _probing(self, name: str, lasts_s: float) -> Iterator[bool]:
        """Tell the engines' states how the call inside went; yields whether it is an engine's probe."""
        probe = self._states.of(name).failures > 0
        if probe and not self._states.begin_probe(name, lasts_s + PROBE_GRACE_S):
            raise EngineUnavailable(f"Engine {name} rests.", outage=True)
        try:
            yield probe
        except EngineUnavailable as failure:
            self._states.failed(name, failure, probe=probe)
            raise
        except PromptRefused:
            if probe:
                self._states.answered(name, probe=True)
            raise
        except BaseException:
            if probe:
                self._states.give_up_probe(name)
            raise
        self._states.answered(name, probe=probe)

    @contextmanager
    def _place(self, name: str, until_ms: int, cancellation: Cancellation) -> Iterator[None]:
        """Hold one of the engine's `max_concurrency` places; wait no longer than the worker's time, or the task's."""
        for _ in range(math.ceil(self._left_s(until_ms) / LISTEN_S)):
            if self._places[name].acquire(timeout=LISTEN_S):
                break
            if cancellation.told:
                raise TaskCancelled
        else:
            raise OutOfTime(f"Engine {name} had no free place within the worker's time.")
        try:
            if not self._fleet.free(name):  # since the candidates were chosen
                raise EngineUnavailable(f"Engine {name} rests or was switched off.", outage=True)
            yield
        finally:
            self._places[name].release()

    def _left_s(self, until_ms: int) -> float:
        left_s = (until_ms - self._clock()) / 1000
        if left_s < LEAST_CALL_S:
            raise OutOfTime("Too little of the worker's time is left for another engine call.")
        return left_s


def _why(spec: EngineSpec, want: Want, before: Sequence[Attempt], *, probe: bool) -> str:
    """Why an engine was chosen, for the receipt: it was the first of the candidates that were left."""
    if before and before[-1].fault:
        reason = f"escalated from {before[-1].engine}"
    elif before:
        reason = f"failover from {before[-1].engine}"
    elif want.engine is not None:
        reason = "asked for by name"
    elif spec.tier in (None, want.tier):
        reason = f"{want.tier} tier, cheapest"
    else:
        reason = f"no engine of the {want.tier} tier, cheapest"
    return f"{reason}, probe" if probe else reason
