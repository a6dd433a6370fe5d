"""Which engine answers: candidates in order, failover inside one call, rest after failures, and the price of it all."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
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
    StorageUnavailable,
)
from llm_server.orchestration.ports import Clock, Completion, Engine, EngineCall, EngineState, Pricer, Store
from llm_server.orchestration.receipts import Attempt

_log = logging.getLogger(__name__)

REST_FIRST_S = 5
REST_MOST_S = 300
RETRY_AFTER_MOST_S = 600
STATE_AGE_MS = 5_000
LEAST_CALL_S = 1.0


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
    """A completion or the failure that ended the search for one, and every call it took.

    `wait_s`: how long until the first resting engine may be asked again; 0 when none rests.
    """

    completion: Completion | None = None
    failure: LLMServerError | None = None
    attempts: tuple[Attempt, ...] = ()
    wait_s: int = 0

    @property
    def can_be_retried(self) -> bool:
        """Another delivery may get what this one did not."""
        return isinstance(self.failure, EngineUnavailable | OutOfTime)


class _EmptyAnswer(EngineUnavailable):
    """The engine answered with nothing. It is well, so it does not rest; asking it again would be paid again."""

    SENTENCE = "The engine's answer is empty."


class EngineStates:
    """The engines' health as the store has it, read at most every 5 s and written only when it changes.

    It is advice: while the store cannot be reached, what is known here goes on to hold.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, EngineState] = {}
        self._read_ms = -STATE_AGE_MS

    def all(self) -> dict[str, EngineState]:
        with self._lock:
            if self._clock() - self._read_ms >= STATE_AGE_MS:
                self._read_ms = self._clock()
                try:
                    self._known = self._store.engine_states()
                except StorageUnavailable:
                    _log.warning("engine states not read")
            return dict(self._known)

    def failed(self, engine: str, error: EngineUnavailable) -> None:
        """Rest an engine: as long as it asked for, else 5 s doubling to 5 min."""
        before = self.all().get(engine, EngineState())
        doubled = min(REST_FIRST_S * 2 ** min(before.failures, 10), REST_MOST_S)
        rest_s = doubled if error.retry_after_s is None else min(error.retry_after_s, RETRY_AFTER_MOST_S)
        now_ms = self._clock()
        if before.rest_until_ms > now_ms:
            return
        offline = before.offline or error.kind in ("unreachable", "credentials")
        self._write(
            engine,
            EngineState(
                failures=before.failures + 1,
                rest_until_ms=now_ms + int(rest_s * 1000),
                offline=offline,
                reason=str(error)[:200],
            ),
        )

    def answered(self, engine: str) -> None:
        """An engine that answers after its rest is well again; a call that began before the rest proves nothing."""
        known = self.all().get(engine, EngineState())
        if known.failures and known.rest_until_ms <= self._clock():
            self._write(engine, EngineState())

    def rests(self, engine: str) -> bool:
        return self.all().get(engine, EngineState()).rest_until_ms > self._clock()

    def _write(self, engine: str, state: EngineState) -> None:
        with self._lock:
            self._known[engine] = state
        try:
            self._store.save_engine_state(engine, state)
        except StorageUnavailable:
            _log.warning("engine state not written", extra={"engine": engine})


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
        self._places = {n: threading.BoundedSemaphore(s.max_concurrency) for n, s in catalog.engines.items()}

    def serving(self) -> dict[str, EngineSpec]:
        """The configured engines; the embedded one only when there is no other, so that it never stands in for one."""
        real = {name: spec for name, spec in self._catalog.engines.items() if spec.kind != "embedded"}
        return real or dict(self._catalog.engines)

    def candidates(self, tier: Tier, only: str | None = None) -> list[str]:
        """Engines that may take a call now: the wanted tier first, then cheapest, then local."""
        usable = [name for name, rest_s in self._allowed(only).items() if not rest_s]
        if len(usable) < 2:
            return usable
        return sorted(usable, key=lambda name: self._rank(self._catalog.engines[name], tier))

    def _allowed(self, only: str | None) -> dict[str, int]:
        """The engines that may answer at all, and how many seconds each still rests."""
        states, now_ms = self._states.all(), self._clock()
        serving = self.serving() if only is None else {n: s for n, s in self._catalog.engines.items() if n == only}
        return {
            name: max(0, math.ceil((states.get(name, EngineState()).rest_until_ms - now_ms) / 1000))
            for name, spec in serving.items()
            if spec.toggle and not spec.locked and self._has_credentials(spec)
        }

    def status(self, states: Mapping[str, EngineState]) -> dict[str, str]:
        """Each engine as `GET /metrics` names it: online, cooling, disabled, locked or offline."""
        return {name: self._status(spec, states.get(name, EngineState())) for name, spec in self.serving().items()}

    def call(self, call: EngineCall, want: Want) -> Reply:
        """Try the candidates in order until one answers; one the task cannot afford is passed over.

        Of several failures the one is reported that may be the prompt's own, so that a prompt that breaks engines ends.
        """
        attempts: list[Attempt] = []
        failure: LLMServerError | None = None
        for name in self.candidates(want.tier, want.engine):
            try:
                completion = self._try(name, call, want, attempts)
            except _EmptyAnswer:
                failure = PromptRefused(_EmptyAnswer.SENTENCE)
            except EngineUnavailable as error:
                failure = error if failure is None or not error.is_outage else failure
            except LimitReached as error:
                failure = failure or error
            except (PromptRefused, OutOfTime) as error:
                return Reply(failure=error, attempts=tuple(attempts))
            else:
                self._states.answered(name)
                return Reply(completion=completion, attempts=tuple(attempts))
        rests_s = [rest_s for rest_s in self._allowed(want.engine).values() if rest_s]
        if failure is None or (isinstance(failure, LimitReached) and rests_s):
            who = "No engine can" if want.engine is None else f"Engine {want.engine} cannot"
            failure = EngineUnavailable(f"{who} take work now.", kind="resting")
        return Reply(failure=failure, attempts=tuple(attempts), wait_s=min(rests_s, default=0))

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
            error = _EmptyAnswer.SENTENCE if empty else None
            attempts.append(replace(attempt, cost_microusd=cost, error=error))
            if empty:
                raise _EmptyAnswer(_EmptyAnswer.SENTENCE, kind="garbage")
            return completion
        finally:
            want.budget.settle(reserved, cost or 0)

    def _made(self, name: str, call: EngineCall, want: Want, attempts: list[Attempt]) -> tuple[Completion, Attempt]:
        """Call the engine. A failure is recorded here, while the place is held: who waits for it must see the rest."""
        spec = self._catalog.engines[name]
        left_s, most_s = self._left_s(want.until_ms), self._catalog.timeout_s(name)
        started_ms = self._clock()
        attempt = Attempt(
            engine=name,
            model=spec.model,
            source=spec.source,
            purpose=want.purpose,
            started_ms=started_ms,
            duration_ms=0,
        )
        try:
            completion = self._engines[name].complete(call, timeout_s=min(most_s, left_s))
        except (EngineUnavailable, PromptRefused) as failure:
            attempts.append(replace(attempt, duration_ms=max(0, self._clock() - started_ms), error=str(failure)))
            if isinstance(failure, EngineUnavailable):
                if left_s < most_s and failure.kind == "busy" and failure.retry_after_s is None:
                    self._left_s(want.until_ms)  # the worker's time cut the call short: no fault of the engine
                self._states.failed(name, failure)
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
    def _place(self, name: str, until_ms: int) -> Iterator[None]:
        """Hold one of the engine's `max_concurrency` places; wait for it no longer than the worker's time."""
        if not self._places[name].acquire(timeout=self._left_s(until_ms)):
            raise OutOfTime(f"Engine {name} had no free place within the worker's time.")
        try:
            if self._states.rests(name):
                raise EngineUnavailable(f"Engine {name} rests.", kind="resting")
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
        return "cooling" if state.rest_until_ms > self._clock() else "online"
