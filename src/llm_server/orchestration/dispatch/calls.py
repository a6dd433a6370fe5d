"""One engine call: its money, its place, its time, its probe; returned as a value, however it went."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.dispatch.attempts import EngineFailure
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.dispatch.places import Places
from llm_server.orchestration.dispatch.reservation import Price
from llm_server.orchestration.dispatch.retry_budget import RetryBudget
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.catalog import Catalog
from llm_server.orchestration.domain.engine_call import Completion, Engine, EngineCall, Pricer
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LimitReached,
    LLMServerError,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.domain.ports import Clock
from llm_server.orchestration.domain.receipt import Attempt

MIN_CALL_S = 0.5
PROBE_GRACE_S = 5.0
"""How long a probe's claim outlasts its call, for what its worker writes afterwards."""

_TOO_LATE = "Too little of the worker's time is left for another engine call."


class EmptyAnswer(PromptRefused):
    """The engine answered with nothing. It is well and does not rest; asked again, it would be paid again."""

    def __init__(self) -> None:
        super().__init__(attempts.EMPTY_ANSWER)


CallFailure = EngineFailure | LimitReached | OutOfTime


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """A completion, or the failure in place of it. `attempt` is None if the engine was not asked.

    An engine is not asked if it rests or is switched off, if it has no free place, if too little money or time is left,
    or if the task was cancelled.
    """

    completion: Completion | None = None
    failure: CallFailure | None = None
    attempt: Attempt | None = None

    @classmethod
    def of(cls, outcome: Completion | CallFailure, attempt: Attempt) -> CallResult:
        """The result of a call that was made; a completion without text is a failure."""
        if not isinstance(outcome, Completion):
            return cls(failure=outcome, attempt=attempt)
        if not attempt.answered:
            return cls(failure=EmptyAnswer(), attempt=attempt)
        return cls(completion=outcome, attempt=attempt)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return () if self.attempt is None else (self.attempt,)

    def with_fault(self, fault: str) -> CallResult:
        """Note what is wrong with the answer; a strong engine is to be asked after it."""
        return self if self.attempt is None else replace(self, attempt=replace(self.attempt, fault=fault))


class EngineCalls:
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
        self._places = Places(catalog.engines)

    def may_retry(self) -> bool:
        """Whether the retry budget has room for one more call after a first one."""
        return self._retries.has_room()

    def ask(self, engine: str, call: EngineCall, terms: CallTerms, *, after: Attempt | None) -> CallResult:
        """Ask one engine once, within the task's money; `after` is the attempt that this call follows.

        An exception that an engine's contract does not name is raised. Unless it is an LLMServerError, the cost of the
        call is unknown then, and its whole reservation is withheld.
        """
        try:
            call, reserved = terms.budget.reserve(call, self._price_of(engine))
        except LimitReached as failure:
            return CallResult(failure=failure)
        try:
            result = self._ask_at_a_place(engine, call, terms, after, reserved.microusd)
        except LLMServerError:
            terms.budget.settle(reserved, 0)
            raise
        except BaseException:
            terms.budget.withhold()
            raise
        cost = sum(attempt.cost_microusd or 0 for attempt in result.attempts)
        withheld = sum(attempt.withheld_microusd for attempt in result.attempts)
        terms.budget.settle(reserved, cost, withheld_microusd=withheld)
        return result

    def _ask_at_a_place(
        self, engine: str, call: EngineCall, terms: CallTerms, after: Attempt | None, reserved_microusd: int
    ) -> CallResult:
        """Ask while a place is held: a call that waits for it must see the rest that this one may bring."""
        try:
            with self._places.hold(engine, self._left_s(terms), call.cancellation):
                if not self._fleet.free(engine):  # since the candidates were chosen
                    raise EngineUnavailable(f"Engine {engine} rests or was switched off.", outage=True)
                return self._ask_now(engine, call, terms, after, reserved_microusd)
        except (EngineUnavailable, OutOfTime, TaskCancelled) as failure:  # before the engine was asked
            return CallResult(failure=failure)

    def _ask_now(
        self, engine: str, call: EngineCall, terms: CallTerms, after: Attempt | None, reserved_microusd: int
    ) -> CallResult:
        """Ask the engine, tell the engines' states how the call went, and write its attempt."""
        spec, price = self._catalog.engines[engine], self._price_of(engine)
        max_s, left_s = self._catalog.timeout_s(engine), self._left_s(terms)
        call.cancellation.check(anew=after is not None)
        started_ms, timeout_s = self._clock(), min(max_s, left_s)
        with self._probing(engine, timeout_s) as probe:
            attempt = attempts.begun(engine, spec, terms, after, probe=probe, started_ms=started_ms)
            self._retries.count(retry=attempt.failover_from is not None)
            answer = self._answer(engine, call, timeout_s)
        took_ms = self._took_ms(started_ms, timeout_s)
        is_cut_short = _is_timeout(answer) and left_s < max_s and terms.left_s(self._clock()) < MIN_CALL_S
        outcome = OutOfTime(_TOO_LATE) if is_cut_short else answer  # the worker's time ended it: not the engine's fault
        self._tell_states(engine, outcome, probe=probe)
        attempt = attempts.ended(attempt, answer, took_ms=took_ms, price=price, reserved_microusd=reserved_microusd)
        return CallResult.of(outcome, attempt)

    def _answer(self, engine: str, call: EngineCall, timeout_s: float) -> Completion | EngineFailure:
        """What the engine answers, or the failure that its contract lets it raise."""
        try:
            return self._engines[engine].complete(call, timeout_s=timeout_s)
        except (EngineUnavailable, PromptRefused, TaskCancelled) as failure:
            return failure

    @contextmanager
    def _probing(self, engine: str, lasts_s: float) -> Iterator[bool]:
        """Claim the probe of an engine whose rest has ended; yields whether the call inside is one.

        If the call breaks off, another task may probe the engine.

        Raises:
            EngineUnavailable: another worker probes it.
        """
        probe = self._states.of(engine).failures > 0
        if probe and not self._states.begin_probe(engine, lasts_s + PROBE_GRACE_S):
            raise EngineUnavailable(f"Engine {engine} rests.", outage=True)
        try:
            yield probe
        except BaseException:
            if probe:
                self._states.give_up_probe(engine)
            raise

    def _tell_states(self, engine: str, outcome: Completion | CallFailure, *, probe: bool) -> None:
        """Tell all workers that the engine failed or that it is well; an outcome that tells neither ends its probe."""
        if isinstance(outcome, EngineUnavailable):
            self._states.failed(engine, outcome, probe=probe)
        elif isinstance(outcome, Completion) or (probe and isinstance(outcome, PromptRefused)):
            self._states.answered(engine, probe=probe)
        elif probe:
            self._states.give_up_probe(engine)

    def _price_of(self, engine: str) -> Price:
        return partial(self._price, self._catalog.engines[engine])

    def _took_ms(self, since_ms: int, max_s: float) -> int:
        """How long a call took; at most its time-out, so that a clock that was set meanwhile does not distort means."""
        return min(max(0, self._clock() - since_ms), math.ceil(max_s * 1000))

    def _left_s(self, terms: CallTerms) -> float:
        """Seconds of the worker's time that are left. Raises OutOfTime if they are too few for a call."""
        left_s = terms.left_s(self._clock())
        if left_s < MIN_CALL_S:
            raise OutOfTime(_TOO_LATE)
        return left_s


def _is_timeout(answer: Completion | EngineFailure) -> bool:
    return isinstance(answer, EngineUnavailable) and answer.kind == "timeout"
