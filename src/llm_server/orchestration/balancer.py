"""Which engine answers: candidates in order, failover inside one call, rest after failures, and the price of it all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from llm_server.orchestration.budget import Budget
from llm_server.orchestration.catalog import Catalog, EngineSpec, Tier
from llm_server.orchestration.errors import (
    EngineUnavailable,
    LimitReached,
    LLMServerError,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.health import EngineStates
from llm_server.orchestration.ports import Clock, Completion, Engine, EngineCall, EngineState, Pricer
from llm_server.orchestration.receipts import Attempt
from llm_server.orchestration.retries import CALLS_A_STEP, RetryBudget

LEAST_CALL_S = 1.0
PROBE_GRACE_S = 5.0
"""How long a probe's claim outlasts its call, for what its worker writes afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a call is for and what bounds it. `until_ms` (Unix milliseconds): no call goes on after it."""

    purpose: str
    tier: Tier
    until_ms: int
    engine: str | None = None
    budget: Budget = field(default_factory=lambda: Budget(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A completion or the failure that ended the search for one, and every call it took."""

    completion: Completion | None = None
    failure: LLMServerError | None = None
    attempts: tuple[Attempt, ...] = ()
    outage: bool = False
    """Every engine was away, whatever the prompt: none could be asked, or each said so."""

    @property
    def can_be_retried(self) -> bool:
        """Another delivery may get what this one did not."""
        return isinstance(self.failure, EngineUnavailable | OutOfTime | TaskCancelled)


class _EmptyAnswer(EngineUnavailable):
    """The engine answered with nothing. It is well and does not rest; asked again it would be paid again."""

    SENTENCE = "The engine's answer is empty."


class Balancer:
    """Chooses an engine for each call and carries it out."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        engines: Mapping[str, Engine],
        has_credentials: Callable[[EngineSpec], bool],
        states: EngineStates,
        price: Pricer,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._engines = engines
        self._has_credentials = has_credentials
        self._states = states
        self._price = price
        self._clock = clock
        self._retries = RetryBudget(clock)
        self._places = {n: threading.BoundedSemaphore(s.max_concurrency) for n, s in catalog.engines.items()}

    def serving(self) -> dict[str, EngineSpec]:
        """The configured engines; the embedded one only when there is no other, so that it never stands in for one."""
        real = {name: spec for name, spec in self._catalog.engines.items() if spec.kind != "embedded"}
        return real or dict(self._catalog.engines)

    def candidates(self, tier: Tier, only: str | None = None) -> list[str]:
        """Engines that may take a call now: the wanted tier first, then cheapest, then local."""
        states = self._states.all()
        usable = [name for name in self._usable(only) if not self._states.rests(states.get(name, EngineState()))]
        if len(usable) < 2:
            return usable
        return sorted(usable, key=lambda name: self._rank(self._catalog.engines[name], tier))

    def awaited(self, only: str | None = None) -> dict[str, int]:
        """The engines a task can wait for, and when each may be asked again (Unix milliseconds)."""
        states = self._states.all()
        return {name: self._states.back_ms(states.get(name, EngineState())) for name in self._usable(only)}

    def _some_rest(self, only: str | None) -> bool:
        """Whether one that is too busy now may be cheaper than those that were too dear."""
        return any(self._states.rests(self._states.of(name)) for name in self._usable(only))

    def _usable(self, only: str | None) -> list[str]:
        """The engines that are switched on and have credentials, resting or not."""
        serving = self.serving() if only is None else {n: s for n, s in self._catalog.engines.items() if n == only}
        return [n for n, s in serving.items() if s.toggle and not s.locked and self._has_credentials(s)]

    def status(self, states: Mapping[str, EngineState]) -> dict[str, str]:
        """Each engine as `GET /metrics` names it: online, cooling, disabled, locked or offline."""
        return {name: self._status(spec, states.get(name, EngineState())) for name, spec in self.serving().items()}

    def call(self, call: EngineCall, want: Want) -> Reply:
        """Try the candidates in order until one answers or the retry budget ends; one too dear is passed over."""
        attempts: list[Attempt] = []
        failure: LLMServerError | None = None
        outage = True
        for name in self.candidates(want.tier, want.engine):
            if len(attempts) >= CALLS_A_STEP or (attempts and not self._retries.has_room()):
                break
            try:
                completion = self._try(name, call, want, attempts)
            except _EmptyAnswer:
                failure, outage = PromptRefused(_EmptyAnswer.SENTENCE), False
            except EngineUnavailable as error:
                failure, outage = error, outage and error.outage
            except LimitReached as error:
                failure = failure or error
            except (PromptRefused, OutOfTime, TaskCancelled) as error:
                return Reply(failure=error, attempts=tuple(attempts))
            else:
                return Reply(completion=completion, attempts=tuple(attempts))
        who = "No engine can" if want.engine is None else f"Engine {want.engine} cannot"
        if failure is None or (isinstance(failure, LimitReached) and self._some_rest(want.engine)):
            failure = EngineUnavailable(f"{who} take work now.")
        return Reply(failure=failure, attempts=tuple(attempts), outage=outage)

    def _try(self, name: str, call: EngineCall, want: Want, attempts: list[Attempt]) -> Completion:
        """One call within the task's money and the engine's places; the attempt is recorded, answered or not."""
        spec = self._catalog.engines[name]
        call, reserved = want.budget.reserve(call, lambda i, o: self._price(spec, i, o))
        cost: int | None = 0
        try:
            with self._place(name, want.until_ms):
                completion, attempt = self._made(name, call, want, attempts)
            cost = self._price(spec, completion.tokens_in, completion.tokens_out)
            empty = not completion.text.strip()
            attempts.append(replace(attempt, cost_microusd=cost, error=_EmptyAnswer.SENTENCE if empty else None))
            if empty:
                raise _EmptyAnswer(_EmptyAnswer.SENTENCE, kind="garbage")
            return completion
        finally:
            want.budget.settle(reserved, cost or 0)

    def _made(self, name: str, call: EngineCall, want: Want, attempts: list[Attempt]) -> tuple[Completion, Attempt]:
        """Call the engine. A failure is recorded here, while the place is held: who waits for it must see the rest."""
        spec = self._catalog.engines[name]
        left_s, most_s = self._left_s(want.until_ms), self._catalog.timeout_s(name)
        call.cancellation.check()
        started_ms = self._clock()
        with self._probing(name, min(most_s, left_s)) as probe:
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
            self._retries.count(retry=bool(attempts))
            try:
                completion = self._engines[name].complete(call, timeout_s=min(most_s, left_s))
            except (EngineUnavailable, PromptRefused, TaskCancelled) as failure:
                attempts.append(replace(attempt, duration_ms=max(0, self._clock() - started_ms), error=str(failure)))
                late = isinstance(failure, EngineUnavailable) and (failure.kind, failure.retry_after_s) == (
                    "busy",
                    None,
                )
                if late and left_s < most_s:
                    self._left_s(want.until_ms)  # the worker's time cut the call short: no fault of the engine
                raise
        return completion, replace(
            attempt,
            duration_ms=max(1, self._clock() - started_ms),
            tokens_in=completion.tokens_in,
            tokens_out=completion.tokens_out,
            usage_estimated=completion.usage_estimated,
            truncated=completion.truncated,
        )

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
    def _place(self, name: str, until_ms: int) -> Iterator[None]:
        """Hold one of the engine's `max_concurrency` places; wait for it no longer than the worker's time."""
        if not self._places[name].acquire(timeout=self._left_s(until_ms)):
            raise OutOfTime(f"Engine {name} had no free place within the worker's time.")
        try:
            if self._states.rests(self._states.of(name)):
                raise EngineUnavailable(f"Engine {name} rests.", outage=True)
            yield
        finally:
            self._places[name].release()

    def _left_s(self, until_ms: int) -> float:
        left_s = (until_ms - self._clock()) / 1000
        if left_s < LEAST_CALL_S:
            raise OutOfTime("Too little of the worker's time is left for another engine call.")
        return left_s

    def _rank(self, spec: EngineSpec, tier: Tier) -> tuple[bool, bool, int, bool]:
        price = self._price(spec, 1000, 1000)
        return (spec.tier not in (None, tier), price is None, price or 0, spec.source != "local")

    def _status(self, spec: EngineSpec, state: EngineState) -> str:
        if spec.locked:
            return "locked"
        if not spec.toggle:
            return "disabled"
        if state.offline or not self._has_credentials(spec):
            return "offline"
        return "cooling" if self._states.rests(state) else "online"


def _why(spec: EngineSpec, want: Want, before: Sequence[Attempt], *, probe: bool) -> str:
    """Why an engine was chosen, for the receipt: it was the first of the candidates that were left."""
    if before:
        reason = f"failover from {before[-1].engine}"
    elif want.engine is not None:
        reason = "asked for by name"
    elif spec.tier in (None, want.tier):
        reason = f"{want.tier} tier, cheapest"
    else:
        reason = f"no engine of the {want.tier} tier, cheapest"
    return f"{reason}, probe" if probe else reason
