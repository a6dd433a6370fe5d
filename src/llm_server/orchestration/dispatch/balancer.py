"""Choose engines for a call: candidates in order, failover to the next one, a strong engine after a faulty answer."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.dispatch.calls import CallFailure, CallResult, EmptyAnswer, EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.retry_budget import MAX_CALLS_A_STEP, MAX_CALLS_WITH_SCHEMA
from llm_server.orchestration.dispatch.terms import CallTerms
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.allowed import AllowedEngines
from llm_server.orchestration.domain.engines.call import Completion, EngineCall, Pricer
from llm_server.orchestration.domain.engines.catalog import Catalog, EngineSpec, Tier
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    InvalidResult,
    LimitReached,
    LLMServerError,
    MoneySetAside,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
    TooSlow,
)
from llm_server.orchestration.domain.receipt import Attempt

_TYPICAL = Usage(input_tokens=1000, output_tokens=1000)
"""The tokens whose cost ranks the engines."""
_TOO_LONG_TO_TELL = (
    "The prompt with output_schema is too long for every engine that the task may use. Use a smaller schema or prompt, "
    "or an engine with a larger context."
)


class Reply(Struct, frozen=True, kw_only=True):
    """A completion, or the failure that ended the search for one, with the attempts of all calls that were made."""

    completion: Completion | None = None
    failure: LLMServerError | None = None
    attempts: tuple[Attempt, ...] = ()
    outage: bool = False
    """True if the failure does not depend on the prompt: no engine could be asked, or each was down or overloaded."""
    given_up: frozenset[str] = frozenset()
    """The engines that are not asked again for this answer, because they timed out on it."""

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
        window: Window,
    ) -> None:
        self.fleet = fleet
        self.window = window
        self._catalog = catalog
        self.calls = calls
        self.price = price
        self._knows_prices = False

    def look_up_prices(self) -> None:
        """Look up each engine's price once, because the first look-up may take 0.5 s, and `foresee` must not wait."""
        if not self._knows_prices:
            for spec in self._catalog.engines.values():
                self.price(spec, Usage(input_tokens=1, output_tokens=1))
            self._knows_prices = True

    def candidates(self, tier: Tier, allowed: AllowedEngines) -> list[str]:
        """Return the allowed engines that are free, best first: engines of the tier, then cheaper, then local ones.

        Engines without a tier belong to both.
        """
        free = self.fleet.free(allowed)
        if len(free) < 2:
            return free
        return sorted(free, key=lambda name: self._rank(self._catalog.engines[name], tier))

    def foresee(self, call: EngineCall, terms: CallTerms, *, beside_microusd: int = 0) -> Attempt | None:
        """Return the attempt that `call` would begin with now, as it is if it is lost.

        `beside_microusd` is foreseen for other calls that begin before it. Returns None if no engine can be asked now,
        or too little money is left.
        """
        for name in self._names(call, terms):
            if attempt := self.calls.foresee(name, call, terms, beside_microusd=beside_microusd):
                return attempt
        return None

    def worst_case(self, call: EngineCall, allowed: AllowedEngines, *, repair: EngineCall | None = None) -> int | None:
        """Return the most that the calls of one `call` reserve together, with failover and escalation, in micro-USD.

        Each engine is asked once at the most, and once more if its answer may be repaired: `repair` is the largest call
        that asks for it. Returns None if no engine can be asked, or if a price is unknown.
        """
        costs = list[int]()
        for name in self.fleet.return_times(allowed):
            for asked in [call] if repair is None else [call, repair]:
                cost = self.calls.worst_case(name, asked)
                if cost is None:
                    return None
                costs.append(cost)
        most = MAX_CALLS_A_STEP if repair is None else MAX_CALLS_WITH_SCHEMA
        return sum(sorted(costs)[-most:]) if costs else None

    def call(self, call: EngineCall, terms: CallTerms) -> Reply:
        """Ask the candidates in order until one answers or the retry budget is used up.

        A candidate is skipped if the call could cost more than a limit leaves, or if it timed out on this call before
        (`Window.given_up`). A failure is returned in the reply, not raised. It is `TooSlow` if no other engine can be
        asked, now or later.
        """
        reply = self._search(call, terms)
        if reply.completion or not isinstance(reply.failure, EngineUnavailable | OutOfTime):
            return reply
        timed_out = (*terms.timed_out, *(a for a in reply.attempts if a.failure == "timeout"))
        given_up = self.window.given_up(timed_out)
        if given_up and self.fleet.return_times(terms.allowed).keys() <= given_up.keys():
            return replace(reply, failure=self._too_slow(list(given_up.values())[-1]))
        return replace(reply, given_up=frozenset(given_up))

    def _names(self, call: EngineCall, terms: CallTerms) -> list[str]:
        """Return the candidates for a call, without the engines that are given up or cannot be told its schema."""
        given_up = self.window.given_up(terms.timed_out)
        names = [name for name in self.candidates(terms.tier, terms.allowed) if name not in given_up]
        return names if terms.accept is None else [name for name in names if self.calls.can_be_told(name, call)]

    def _search(self, call: EngineCall, terms: CallTerms) -> Reply:
        """Ask the candidates in order, except those that are given up."""
        if why := self.fleet.none_configured(terms.allowed):  # the configuration changed since the task was created
            return Reply(failure=EngineUnavailable(why))
        attempts = tuple[Attempt, ...]()
        failure: CallFailure | None = None
        invalid: InvalidResult | None = None
        unrepaired: EngineUnavailable | None = None
        outage = True
        names = self._names(call, terms)
        if terms.accept and not names and not self._any_can_be_told(call, terms):
            return Reply(failure=InvalidResult(_TOO_LONG_TO_TELL))
        while names and self._may_ask(attempts, after_invalid=bool(invalid or unrepaired)):
            name, *names = names
            result = self._ask(name, call, terms, attempts)
            attempts += result.attempts
            match result.failure:
                case None if terms.accept:
                    reply = self._accepted(name, result, call, terms, attempts)
                    attempts, failure, outage = reply.attempts, None, False
                    if isinstance(reply.failure, EngineUnavailable):
                        unrepaired = reply.failure
                    elif isinstance(reply.failure, InvalidResult):
                        invalid = reply.failure
                    else:
                        return reply
                    names = self._after_empty(name, terms, names)
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
                    if not (invalid and isinstance(result.failure, PromptRefused)):
                        return Reply(failure=result.failure, attempts=attempts)
        if unrepaired:
            return Reply(failure=unrepaired, attempts=attempts)
        if invalid:
            limit = f" {failure}" if isinstance(failure, LimitReached) else ""
            return Reply(failure=InvalidResult(f"{invalid}{limit}"), attempts=attempts)
        return Reply(failure=self._failure(failure, terms), attempts=attempts, outage=outage)

    def _any_can_be_told(self, call: EngineCall, terms: CallTerms) -> bool:
        """Return whether an allowed engine, which may rest now, can be told the schema of a call."""
        return any(self.calls.can_be_told(name, call) for name in self.fleet.return_times(terms.allowed))

    def _may_ask(self, attempts: tuple[Attempt, ...], *, after_invalid: bool) -> bool:
        """Return whether another call may be made after these attempts.

        The retry budget is for engines that fail, so it does not limit the calls after an invalid result.
        """
        most = MAX_CALLS_WITH_SCHEMA if after_invalid else MAX_CALLS_A_STEP
        return not attempts or (len(attempts) < most and (after_invalid or self.calls.may_retry()))

    def _accepted(
        self, name: str, result: CallResult, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...]
    ) -> Reply:
        """Return the completion if it follows the caller's schema. If not, ask the engine once to repair it.

        The failure is `InvalidResult` if no repair is possible, or the repaired answer is invalid, too. If the engine
        fails during the repair, it may succeed in a later delivery.
        """
        assert terms.accept
        assert result.completion
        read = terms.accept(call, result.completion)
        if isinstance(read, Completion):
            return Reply(completion=read, attempts=attempts)
        attempts = (*attempts[:-1], replace(attempts[-1], fault=read.fault))
        invalid = Reply(failure=InvalidResult(read.error), attempts=attempts)
        if read.repair is None or len(attempts) >= MAX_CALLS_WITH_SCHEMA:
            return invalid
        second = self.calls.ask(name, read.repair, terms, after=attempts)
        attempts += second.attempts
        if isinstance(second.failure, LimitReached):
            return replace(invalid, failure=InvalidResult(f"{read.error} {second.failure}"))
        if isinstance(second.failure, EngineUnavailable | OutOfTime | TaskCancelled):
            return Reply(failure=second.failure, attempts=attempts)
        if second.completion is None:
            return replace(invalid, attempts=attempts)
        again = terms.accept(call, second.completion)
        if isinstance(again, Completion):
            return Reply(completion=again, attempts=attempts)
        attempts = (*attempts[:-1], replace(attempts[-1], fault=again.fault))
        return Reply(failure=InvalidResult(again.error), attempts=attempts)

    def _ask(self, name: str, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...]) -> CallResult:
        """Ask an engine, and note on the attempt the fault that the answer gate finds in the answer."""
        result = self.calls.ask(name, call, terms, after=attempts)
        fault = _fault(result, terms, is_strong=self._is_strong(name))
        return result if fault is None else result.with_fault(fault)

    def _escalated(
        self, result: CallResult, call: EngineCall, terms: CallTerms, attempts: tuple[Attempt, ...], others: list[str]
    ) -> Reply:
        """Return the completion. If a cheap one has a fault, ask a strong engine and return its completion.

        At most one strong engine is asked. If it does not answer, the faulty completion is returned.
        """
        escalates = terms.escalates and not self._is_strong(attempts[-1].engine)
        strong = [other for other in others if self._is_strong(other)] if escalates else []
        if attempts[-1].fault is None or not strong or len(attempts) >= MAX_CALLS_A_STEP:
            return Reply(completion=result.completion, attempts=attempts)
        second = self._ask(strong[0], call, terms, attempts)
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
        if failure is None or (isinstance(failure, LimitReached) and self.fleet.any_resting(terms.allowed)):
            name, kind = terms.allowed.engine, terms.allowed.kind
            return EngineUnavailable(
                f"Engine {name} cannot take work now." if name else f"No {kind} can take work now."
            )
        return failure

    def _too_slow(self, last: Attempt) -> TooSlow:
        """Return the failure of a task whose engines are all given up; `last` is the last call that timed out."""
        name, timeout_s = last.engine, self._catalog.timeout_s(last.engine)
        return TooSlow(
            f"Engine {name} did not answer in {last.duration_ms / 1000:.0f} s, and is not asked again. Its timeout_s "
            f"is {timeout_s}, and a worker waits at most {self.window.whole_s} s for a call. To allow more time, "
            f"{self.window.advice(last, timeout_s)}."
        )

    def _is_strong(self, name: str) -> bool:
        return self._catalog.engines[name].tier == "strong"

    def _rank(self, spec: EngineSpec, tier: Tier) -> tuple[bool, bool, int, bool]:
        price = self.price(spec, _TYPICAL)
        return (spec.tier not in (None, tier), price is None, price or 0, spec.source != "local")


def _fault(result: CallResult, terms: CallTerms, *, is_strong: bool) -> str | None:
    """Return the fault of an answer; None if no fault is found.

    An empty answer has one only if a strong engine is asked because of it.
    """
    if result.completion:
        return terms.fault(result.completion) if terms.fault else None
    must_escalate = (
        terms.escalates and not is_strong and terms.tier != "strong" and isinstance(result.failure, EmptyAnswer)
    )
    return "empty" if must_escalate else None
