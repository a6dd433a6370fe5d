"""Which engine answers: candidates in order, failover inside one call, a strong engine for a faulty answer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from llm_server.orchestration.dispatch.calls import Calls, EmptyAnswer, Want
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.retry_budget import CALLS_A_STEP
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
    """Every engine was away, whatever the prompt: none could be asked, or each said so."""

    @property
    def can_be_retried(self) -> bool:
        """Another delivery may get what this one did not."""
        return isinstance(self.failure, EngineUnavailable | MoneySetAside | OutOfTime | TaskCancelled)


class Balancer:
    """Chooses an engine for each call and carries it out."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        fleet: Fleet,
        calls: Calls,
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

    def call(self, call: EngineCall, want: Want) -> Reply:
        """Try the candidates in order until one answers or the retry budget ends; one too dear is passed over."""
        if want.engine is not None and want.engine not in self._catalog.engines:  # it was, where the task was accepted
            return Reply(failure=EngineUnavailable(f"Engine {want.engine} is not configured any more."))
        attempts: list[Attempt] = []
        failure: LLMServerError | None = None
        outage = True
        names = self.candidates(want.tier, want.engine)
        while names and len(attempts) < CALLS_A_STEP and (not attempts or self._calls.may_retry()):
            name = names.pop(0)
            try:
                completion = self._calls.make(name, call, want, attempts)
            except EmptyAnswer:
                failure, outage = PromptRefused(EmptyAnswer.SENTENCE), False
                names = self._after_nothing(name, want, attempts, names)
            except EngineUnavailable as error:
                failure, outage = error, outage and error.outage
            except LimitReached as error:
                failure = error if failure is None or isinstance(error, MoneySetAside) else failure
            except (PromptRefused, OutOfTime, TaskCancelled) as error:
                return Reply(failure=error, attempts=tuple(attempts))
            else:
                completion = self._gated(name, completion, call, want, attempts, names)
                return Reply(completion=completion, attempts=tuple(attempts))
        who = "No engine can" if want.engine is None else f"Engine {want.engine} cannot"
        if failure is None or (isinstance(failure, LimitReached) and self.fleet.some_rest(want.engine)):
            failure = EngineUnavailable(f"{who} take work now.")
        return Reply(failure=failure, attempts=tuple(attempts), outage=outage)

    def _gated(
        self,
        name: str,
        completion: Completion,
        call: EngineCall,
        want: Want,
        attempts: list[Attempt],
        others: list[str],
    ) -> Completion:
        """The completion of an engine, or a strong one's where the answer gate finds a fault in it.

        One call, no more; where it cannot be made or fails, the faulty answer is still the best there is.
        """
        fault = want.fault(completion) if want.fault and not self._is_strong(name) else None
        if fault is None:
            return completion
        attempts[-1] = replace(attempts[-1], fault=fault)
        strong = next((other for other in others if self._is_strong(other)), None)
        if strong and len(attempts) < CALLS_A_STEP:
            with suppress(EngineUnavailable, LimitReached, OutOfTime, PromptRefused, TaskCancelled):
                return self._calls.make(strong, call, want, attempts)
        return completion

    def _after_nothing(self, name: str, want: Want, attempts: list[Attempt], others: list[str]) -> list[str]:
        """Who is asked after an empty answer: strong engines first, or none of them unless one was wanted."""
        if self._is_strong(name) or want.tier == "strong":
            return others
        if not want.escalates:
            return [other for other in others if not self._is_strong(other)]
        attempts[-1] = replace(attempts[-1], fault="empty")
        return sorted(others, key=lambda other: not self._is_strong(other))

    def _is_strong(self, name: str) -> bool:
        return self._catalog.engines[name].tier == "strong"

    def _rank(self, spec: EngineSpec, tier: Tier) -> tuple[bool, bool, int, bool]:
        price = self._price(spec, 1000, 1000)
        return (spec.tier not in (None, tier), price is None, price or 0, spec.source != "local")
