"""Choose engines for a call: candidates in order, failover to the next one, a strong engine after a faulty answer."""

from __future__ import annotations

from dataclasses import dataclass

from llm_server.orchestration.dispatch.calls import CallFailure, CallResult, EmptyAnswer, EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.retry_budget import MAX_CALLS_A_STEP
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
    """A completion, or the failure that ended the search for one, with the attempts of all calls that were made."""

    completion: Completion | None = None
    failure: LLMServerError | None = None
    attempts: tuple[Attempt, ...] = ()
    outage: bool = False
    """True if the failure does not depend on the prompt: no engine could be asked, or each was down or overloaded."""

    @property
    def can_be_retried(self) -> bool:
        """Whether the next delivery of the task may succeed where this one failed."""
        return isinstance(self.failure, EngineUnavailable | MoneySetAside | OutOfTime | TaskCancelled)


class Balancer:
    """Chooses engines for a call and asks them until one answers."""

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
        self._knows_prices = False

    def look_up_prices(self) -> None:
        """Look up each engine's price once, because the first look-up may take 0.5 s, and `foresee` must not wait."""
        if not self._knows_prices:
            for spec in self._catalog.engines.values():
                self._price(spec, 1, 1)
            self._knows_prices = True

    def candidates(self, tier: Tier, only: str | None = None) -> list[str]:
        """Return the engines that can take a call now, best first: engines of the tier, then cheaper, then local ones.

        Engines without a tier belong to both. With `only`, return that engine alone, if it can take a call.
        """
        free = self.fleet.free(only)
        if len(free) < 2:
            return free
        return sorted(free, key=lambda name: self._rank(self._catalog.engines[name], tier))

    def foresee(self, call: EngineCall, terms: CallTerms, *, beside_microusd: int = 0) -> Attempt | None:
        """Return the attempt that `call` would begin with now, as it is if it is lost.

        `beside_microusd` is foreseen for other calls that begin before it. Returns None if no engine can be asked now,
        or too little money is left.
        """
        for name in self.candidates(terms.tier, terms.engine):
            if attempt := self._calls.foresee(name, call, terms, beside_microusd=beside_microusd):
                return attempt
        return None

    def call(self, call: EngineCall, terms: CallTerms) -> Reply:
        """Ask the candidates in order until one answers or the retry budget is used up.

        A candidate is skipped if the call could cost more than a limit leaves. A failure is returned in the reply, not
        raised.
        """
        if terms.engine is not None and terms.engine not in self._catalog.engines:  # removed since the task was created
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
        """Return whether another call may be made after these attempts."""
        return not attempts or (len(attempts) < MAX_CALLS_A_STEP and self._calls.may_retry())

    def _ask(self, name: str, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...]) -> CallResult:
        """Ask an engine. If its answer has a fault for which a strong engine is to be asked, note it on the attempt."""
        result = self._calls.ask(name, call, terms, after=attempts)
        fault = None if self._is_strong(name) else _fault(result, terms)
        return result if fault is None else result.with_fault(fault)

    def _escalated(
        self, result: CallResult, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...], others: list[str]
    ) -> Reply:
        """Return the completion. If the answer gate found a fault in it, ask a strong engine and return its completion.

        At most one strong engine is asked. If it does not answer, the faulty completion is returned.
        """
        strong = [other for other in others if self._is_strong(other)]
        if attempts[-1].fault is None or not strong or len(attempts) >= MAX_CALLS_A_STEP:
            return Reply(completion=result.completion, attempts=attempts)
        second = self._calls.ask(strong[0], call, terms, after=attempts)
        return Reply(completion=second.completion or result.completion, attempts=attempts + second.attempts)

    def _after_empty(self, name: str, terms: CallTerms, others: list[str]) -> list[str]:
        """Return the engines to ask after an empty answer.

        If the call may escalate from a cheap engine, strong engines come first. If it may not, they are left out.
        """
        if self._is_strong(name) or terms.tier == "strong":
            return others
        if not terms.escalates:
            return [other for other in others if not self._is_strong(other)]
        return sorted(others, key=lambda other: not self._is_strong(other))

    def _failure(self, failure: CallFailure | None, terms: CallTerms) -> CallFailure:
        """Return why no candidate answered.

        If the candidates cost too much, but another engine rests and may cost less, return EngineUnavailable, so that
        the task waits for that engine.
        """
        if failure is None or (isinstance(failure, LimitReached) and self.fleet.any_resting(terms.engine)):
            subject = "No engine can" if terms.engine is None else f"Engine {terms.engine} cannot"
            return EngineUnavailable(f"{subject} take work now.")
        return failure

    def _is_strong(self, name: str) -> bool:
        return self._catalog.engines[name].tier == "strong"

    def _rank(self, spec: EngineSpec, tier: Tier) -> tuple[bool, bool, int, bool]:
        price = self._price(spec, 1000, 1000)
        return (spec.tier not in (None, tier), price is None, price or 0, spec.source != "local")


def _fault(result: CallResult, terms: CallTerms) -> str | None:
    """Return the fault for which a strong engine is asked after a cheap one; None if it is not asked."""
    if result.completion:
        return terms.fault(result.completion) if terms.fault else None
    must_escalate = terms.escalates and terms.tier != "strong" and isinstance(result.failure, EmptyAnswer)
    return "empty" if must_escalate else None
