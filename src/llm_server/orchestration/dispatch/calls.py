"""Make one engine call within the task's budget, the engine's places and the time left. Failures are returned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.dispatch.attempts import EngineFailure
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.dispatch.places import Places
from llm_server.orchestration.dispatch.reservation import Price, Reservation, worst_case
from llm_server.orchestration.dispatch.retry_budget import RetryBudget
from llm_server.orchestration.dispatch.streamed_text import FirstText, Interrupted
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall, Pricer
from llm_server.orchestration.domain.engines.catalog import Catalog, StructuredOutput
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LimitReached,
    LLMServerError,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.receipt import Attempt

MIN_CALL_S = 0.5
PROBE_GRACE_S = 5.0
"""Seconds for which a probe stays claimed after its call, so that the worker can store the result."""

_TOO_LATE = "Too little of the worker's time is left for another engine call."


class EmptyAnswer(PromptRefused):
    """The engine's answer has no text. The engine counts as healthy. It is not asked again: that would cost more."""

    def __init__(self) -> None:
        super().__init__(attempts.EMPTY_ANSWER)


CallFailure = EngineFailure | LimitReached | OutOfTime


class CallResult(Struct, frozen=True, kw_only=True):
    """A completion or a failure. `attempt` is None if the engine was not asked.

    The engine is not asked if it rests, is switched off or has no free place, if too little money or time is left, or
    if the task was cancelled.
    """

    completion: Completion | None = None
    failure: CallFailure | None = None
    attempt: Attempt | None = None

    @classmethod
    def of(cls, outcome: Completion | CallFailure, attempt: Attempt) -> CallResult:
        """Return the result of a call that was made; one without text and tool calls becomes an `EmptyAnswer`."""
        if not isinstance(outcome, Completion):
            return cls(failure=outcome, attempt=attempt)
        if not attempt.answered:
            return cls(failure=EmptyAnswer(), attempt=attempt)
        return cls(completion=outcome, attempt=attempt)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return () if self.attempt is None else (self.attempt,)

    def with_fault(self, fault: str) -> CallResult:
        """Return the result with the fault on its attempt, so that the receipt says why a strong engine is asked."""
        return self if self.attempt is None else replace(self, attempt=replace(self.attempt, fault=fault))


class EngineCalls:
    """Makes the engine calls of one process; they share the engines' places and one retry budget."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        engines: Mapping[str, Engine],
        fleet: Fleet,
        states: EngineStates,
        price: Pricer,
        clock: Clock,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`waiting()` is entered while a call waits for its place or for the engine."""
        self._catalog = catalog
        self._engines = engines
        self._fleet = fleet
        self._states = states
        self._price = price
        self._clock = clock
        self._waiting = waiting
        self._retries = RetryBudget(clock)
        self._places = Places(catalog.engines)

    def may_retry(self) -> bool:
        """Return whether the retry budget of the process allows another call after a failed one."""
        return self._retries.has_room()

    def foresee(self, engine: str, call: EngineCall, terms: CallTerms, *, beside_microusd: int) -> Attempt | None:
        """Return the attempt of a call that `ask` would make now, as it is if it is lost; None if too little is left.

        `beside_microusd` is foreseen for other calls that begin before it.
        """
        try:
            call = self._for_engine(engine, call)
            microusd = terms.budget.foresee(call, self._price_of(engine), beside_microusd=beside_microusd)
        except LimitReached:
            return None
        return self._started(engine, terms, None, probe=False).lost(microusd)

    def worst_case(self, engine: str, call: EngineCall) -> int | None:
        """Return what a call of the engine reserves without a limit, in micro-USD; None if its price is unknown."""
        return worst_case(self._for_engine(engine, call), self._price_of(engine))

    def structured_output(self, engine: str) -> StructuredOutput:
        """Return what the engine's API takes: as this process has found out, otherwise as configured."""
        configured = self._catalog.engines[engine].structured_output
        return getattr(self._engines.get(engine), "structured_output", configured)

    def can_be_told(self, engine: str, call: EngineCall) -> bool:
        """Return whether the engine enforces the call's schema, or has room for it in its context if that is known."""
        spec = self._catalog.engines[engine]
        if self.structured_output(engine) == "json_schema" or not (spec.context or spec.runs_in_process):
            return True
        return self._for_engine(engine, call).fits(self._catalog.context(engine))

    def ask(self, engine: str, call: EngineCall, terms: CallTerms, *, after: tuple[Attempt, ...] = ()) -> CallResult:
        """Ask one engine once, within the task's budget; `after` are the earlier attempts to answer the same call.

        Failures that the `Engine` protocol allows are returned; any other exception is raised. If it is not an
        LLMServerError, or was raised by what takes the text, the cost of the call is unknown, and the whole reservation
        is withheld.
        """
        call = self._for_engine(engine, call)
        try:
            call, reserved = terms.budget.reserve(call, self._price_of(engine))
        except LimitReached as failure:
            return CallResult(failure=failure)
        try:
            with self._waiting():
                result = self._ask_at_a_place(engine, call, terms, after, reserved)
        except Interrupted as interruption:
            terms.budget.withhold()
            raise interruption.cause from interruption.cause.__cause__
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

    def _for_engine(self, engine: str, call: EngineCall) -> EngineCall:
        """Return the call as this engine gets it."""
        call = call.for_engine(self._catalog.engines[engine])
        call = replace(call, max_reasoning_tokens=self._catalog.max_reasoning_tokens(engine))
        return call.within(self._catalog.context(engine))

    def _ask_at_a_place(
        self, engine: str, call: EngineCall, terms: CallTerms, after: tuple[Attempt, ...], reserved: Reservation
    ) -> CallResult:
        """Ask while holding a place; check first whether the engine failed while the call waited for the place."""
        try:
            with self._places.hold(engine, self._left_s(terms), call.cancellation, terms.line):
                self._check(engine, terms)
                return self._ask_now(engine, call, terms, after, reserved)
        except (EngineUnavailable, OutOfTime, TaskCancelled) as failure:  # raised before the engine was asked
            return CallResult(failure=failure)

    def _check(self, engine: str, terms: CallTerms) -> None:
        """Check, last before the call, that the task may use the engine, and that the engine may be asked now.

        Raises:
            EngineUnavailable: the task may not use the engine, or the engine rests or is switched off.
        """
        if not terms.allowed.admits(engine, self._catalog.engines[engine].source):
            raise EngineUnavailable(f"Engine {engine} is not one that the task may use.", outage=True)
        if not self._catalog.engines[engine].takes(terms.allowed.needs):
            raise EngineUnavailable(f"Engine {engine} does not take what the task needs.", outage=True)
        if not self._fleet.free(AllowedEngines(engine=engine)):
            raise EngineUnavailable(f"Engine {engine} rests after a failure or was switched off.", outage=True)

    def _ask_now(
        self, engine: str, call: EngineCall, terms: CallTerms, after: tuple[Attempt, ...], reserved: Reservation
    ) -> CallResult:
        """Announce the call, ask the engine, record its health, and finish the attempt."""
        price, previous = self._price_of(engine), after[-1] if after else None
        call.cancellation.check()
        announced = self._started(engine, terms, previous, probe=False).lost(reserved.worst_case_microusd)
        terms.announce((*terms.earlier, *after, announced))
        max_s, left_s = self._catalog.timeout_s(engine), self._left_s(terms)
        timeout_s = min(max_s, left_s)
        with self._probing(engine, timeout_s) as probe:
            attempt = self._started(engine, terms, previous, probe=probe)
            self._retries.count(retry=attempt.failover_from is not None)
            call, first_text = self._streamed(call, terms, attempt)
            answer = self._answer(engine, call, timeout_s)
        took_ms = self._took_ms(attempt.started_ms, timeout_s)
        is_cut_short = _is_timeout(answer) and left_s < max_s and terms.left_s(self._clock()) < MIN_CALL_S
        # If the worker ran out of time, the engine did not fail.
        outcome = OutOfTime(_TOO_LATE) if is_cut_short else answer
        self._record_health(engine, outcome, probe=probe)
        attempt = attempts.finish(
            attempt, call, answer, took_ms=took_ms, price=price, reserved_microusd=reserved.microusd
        )
        attempt = replace(attempt, first_text_ms=first_text.after_ms, turns_dropped=call.turns_dropped)
        return CallResult.of(outcome, attempt)

    def _streamed(self, call: EngineCall, terms: CallTerms, attempt: Attempt) -> tuple[EngineCall, FirstText]:
        """Return the call with a stream of its text, if its terms ask for one, and the watch for its first piece."""
        first_text = FirstText(self._clock, attempt.started_ms)
        if terms.open_item is None:
            return call, first_text
        return replace(call, on_text=first_text.before(terms.open_item(attempt))), first_text

    def _started(self, engine: str, terms: CallTerms, after: Attempt | None, *, probe: bool) -> Attempt:
        """Return the attempt of a call that begins now."""
        spec, started_ms = self._catalog.engines[engine], self._clock()
        return attempts.start(engine, spec, terms, after, probe=probe, started_ms=started_ms)

    def _answer(self, engine: str, call: EngineCall, timeout_s: float) -> Completion | EngineFailure:
        """Ask the engine. Return its answer, or the failure it raised if the `Engine` protocol allows that failure."""
        try:
            return self._engines[engine].complete(call, timeout_s=timeout_s)
        except (EngineUnavailable, PromptRefused, TaskCancelled) as failure:
            return failure

    @contextmanager
    def _probing(self, engine: str, lasts_s: float) -> Iterator[bool]:
        """Claim the right to probe an engine whose rest has ended; yield whether the call is a probe.

        If the call raises, the claim is released, and another task may probe the engine.

        Raises:
            EngineUnavailable: another worker is probing the engine.
        """
        probe = self._states.of(engine).failures > 0
        if probe and not self._states.begin_probe(engine, lasts_s + PROBE_GRACE_S):
            raise EngineUnavailable(f"Engine {engine} rests after a failure or is being probed.", outage=True)
        try:
            yield probe
        except BaseException:
            if probe:
                self._states.give_up_probe(engine)
            raise

    def _record_health(self, engine: str, outcome: Completion | CallFailure, *, probe: bool) -> None:
        """Record for all workers that the engine failed or is healthy; if the outcome shows neither, end its probe."""
        if isinstance(outcome, EngineUnavailable):
            self._states.record_failure(engine, outcome, probe=probe)
        elif isinstance(outcome, Completion) or (probe and isinstance(outcome, PromptRefused)):
            self._states.record_success(engine, probe=probe)
        elif probe:
            self._states.give_up_probe(engine)

    def _price_of(self, engine: str) -> Price:
        return partial(self._price, self._catalog.engines[engine])

    def _took_ms(self, since_ms: int, max_s: float) -> int:
        """Return how long a call took, clamped to 0..`max_s`, so that a changed clock does not distort averages."""
        return min(max(0, self._clock() - since_ms), math.ceil(max_s * 1000))

    def _left_s(self, terms: CallTerms) -> float:
        """Return how many seconds the worker has left. Raises OutOfTime if they are too few for a call."""
        left_s = terms.left_s(self._clock())
        if left_s < MIN_CALL_S:
            raise OutOfTime(_TOO_LATE)
        return left_s


def _is_timeout(answer: Completion | EngineFailure) -> bool:
    return isinstance(answer, EngineUnavailable) and answer.kind == "timeout"
