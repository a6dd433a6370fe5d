"""Which engine answers: candidates in order, failover to the next one, a strong engine after a faulty answer."""

from __future__ import annotations

from dataclasses import dataclass

from llm_server.orchestration.dispatch.calls import CallFailure, CallResult, EmptyAnswer, EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.retry_budget import CALLS_A_STEP
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.domain.catalog import Catalog, EngineSpec, Tier
from llm_server.orchestration.domain.engine_call import Completion, EngineCall, Pricer
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    LimitReached,
    LLMServerError,
    MoneySetAside,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.domain.receipt import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A completion or the failure that ended the search for one, and every call it took."""

    completion: Completion | None = None
    failure: LLMServerError | None = None
    attempts: tuple[Attempt, ...] = ()
    outage: bool = False
    """Every engine was away, whatever the prompt: none could be asked, or each one refused every prompt."""

    @property
    def can_be_retried(self) -> bool:
        """Another delivery may get the answer that this one did not."""
        return isinstance(self.failure, EngineUnavailable | MoneySetAside | OutOfTime | TaskCancelled)


class Balancer:
    """Chooses an engine for each call and carries it out."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        fleet: Fleet,
        calls: EngineCalls,
        price: Pricer,
    ) -> None:
        self.fleet = fleet
        self._catalog = catalog
        self._calls = calls
        self._price = price

    def candidates(self, tier: Tier, only: str | None = None) -> list[str]:
        """Engines that may take a call now: the wanted tier first, then cheapest, then local."""
        free = self.fleet.free(only)
        if len(free) < 2:
            return free
        return sorted(free, key=lambda name: self._rank(self._catalog.engines[name], tier))

    def call(self, call: EngineCall, terms: CallTerms) -> Reply:
        """Ask the candidates in order until one answers or the retry budget ends; one too dear is passed over."""
        if terms.engine is not None and terms.engine not in self._catalog.engines:  # it was when the task was accepted
            return Reply(failure=EngineUnavailable(f"Engine {terms.engine} is not configured any more."))
        attempts = tuple[Attempt, ...]()
        failure: CallFailure | None = None
        outage = True
        names = self.candidates(terms.tier, terms.engine)
        while names and self._may_ask(attempts):
            name, *names = names
            result = self._ask(name, call, terms, attempts)
            attempts += result.attempts
            match result.failure:
                case None:
                    return self._escalated(result, call, terms, attempts, names)
                case EmptyAnswer():
                    failure, outage = result.failure, False
                    names = self._after_empty(name, terms, names)
                case EngineUnavailable():
                    failure, outage = result.failure, outage and result.failure.outage
                case LimitReached():
                    is_first_or_may_pass = failure is None or isinstance(result.failure, MoneySetAside)
                    failure = result.failure if is_first_or_may_pass else failure
                case PromptRefused() | OutOfTime() | TaskCancelled():
                    return Reply(failure=result.failure, attempts=attempts)
        return Reply(failure=self._failure(failure, terms), attempts=attempts, outage=outage)

    def _may_ask(self, attempts: tuple[Attempt, ...]) -> bool:
        """Whether one more call may be made after these."""
        return not attempts or (len(attempts) < CALLS_A_STEP and self._calls.may_retry())

    def _ask(self, name: str, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...]) -> CallResult:
        """Ask an engine; if a strong one is to be asked after it, its attempt says which fault that is for."""
        result = self._calls.ask(name, call, terms, after=attempts[-1] if attempts else None)
        fault = None if self._is_strong(name) else _fault(result, terms)
        return result if fault is None else result.with_fault(fault)

    def _escalated(
        self, result: CallResult, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...], others: list[str]
    ) -> Reply:
        """The completion of an engine, or a strong one's if the answer gate found a fault in it.

        One call, no more; if it cannot be made or fails, the faulty completion is still the best there is.
        """
        strong = next((other for other in others if self._is_strong(other)), None)
        if attempts[-1].fault is None or strong is None or len(attempts) >= CALLS_A_STEP:
            return Reply(completion=result.completion, attempts=attempts)
        second = self._calls.ask(strong, call, terms, after=attempts[-1])
        return Reply(completion=second.completion or result.completion, attempts=attempts + second.attempts)

    def _after_empty(self, name: str, terms: CallTerms, others: list[str]) -> list[str]:
        """Which engines to ask after an empty answer: strong ones first, or none of them unless one was wanted."""
        if self._is_strong(name) or terms.tier == "strong":
            return others
        if not terms.escalates:
            return [other for other in others if not self._is_strong(other)]
        return sorted(others, key=lambda other: not self._is_strong(other))

    def _failure(self, failure: CallFailure | None, terms: CallTerms) -> CallFailure:
        """Why no candidate answered. If one may be affordable after its rest, the money is not what the task lacks."""
        if failure is None or (isinstance(failure, LimitReached) and self.fleet.some_rest(terms.engine)):
            who = "No engine can" if terms.engine is None else f"Engine {terms.engine} cannot"
            return EngineUnavailable(f"{who} take work now.")
        return failure

    def _is_strong(self, name: str) -> bool:
        return self._catalog.engines[name].tier == "strong"

    def _rank(self, spec: EngineSpec, tier: Tier) -> tuple[bool, bool, int, bool]:
        price = self._price(spec, 1000, 1000)
        return (spec.tier not in (None, tier), price is None, price or 0, spec.source != "local")


def _fault(result: CallResult, terms: CallTerms) -> str | None:
    """Why a strong engine is to be asked after a cheap one, None if it is not."""
    if result.completion:
        return terms.fault(result.completion) if terms.fault else None
    is_to_escalate = terms.escalates and terms.tier != "strong" and isinstance(result.failure, EmptyAnswer)
    return "empty" if is_to_escalate else None
