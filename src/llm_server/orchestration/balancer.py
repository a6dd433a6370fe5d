"""Which engine answers: candidates in order, failover inside one call, a strong engine for a faulty answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from llm_server.orchestration.calls import Calls, EmptyAnswer, Want
from llm_server.orchestration.catalog import Catalog, EngineSpec, Tier
from llm_server.orchestration.errors import (
    EngineUnavailable,
    LimitReached,
    LLMServerError,
    OutOfTime,
    PromptRefused,
)
from llm_server.orchestration.health import EngineStates
from llm_server.orchestration.ports import Completion, EngineCall, EngineState, Pricer
from llm_server.orchestration.receipts import Attempt
from llm_server.orchestration.retries import CALLS_A_STEP


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
        return isinstance(self.failure, EngineUnavailable | OutOfTime)


class Balancer:
    """Chooses an engine for each call and carries it out."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        calls: Calls,
        has_credentials: Callable[[EngineSpec], bool],
        states: EngineStates,
        price: Pricer,
    ) -> None:
        self._catalog = catalog
        self._calls = calls
        self._has_credentials = has_credentials
        self._states = states
        self._price = price

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
        names = self.candidates(want.tier, want.engine)
        while names and len(attempts) < CALLS_A_STEP and (not attempts or self._calls.may_retry()):
            name = names.pop(0)
            try:
                completion = self._calls.make(name, call, want, attempts)
            except EmptyAnswer:
                failure, outage = PromptRefused(EmptyAnswer.SENTENCE), False
                names.sort(key=lambda other: bool(want.fault) and not self._is_strong(other))
            except EngineUnavailable as error:
                failure, outage = error, outage and error.outage
            except LimitReached as error:
                failure = failure or error
            except (PromptRefused, OutOfTime) as error:
                return Reply(failure=error, attempts=tuple(attempts))
            else:
                completion = self._gated(name, completion, call, want, attempts, names)
                return Reply(completion=completion, attempts=tuple(attempts))
        who = "No engine can" if want.engine is None else f"Engine {want.engine} cannot"
        if failure is None or (isinstance(failure, LimitReached) and self._some_rest(want.engine)):
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
            with suppress(EngineUnavailable, LimitReached, OutOfTime, PromptRefused):
                return self._calls.make(strong, call, want, attempts)
        return completion

    def _is_strong(self, name: str) -> bool:
        return self._catalog.engines[name].tier == "strong"

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
