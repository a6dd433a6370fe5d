"""All configured engines: their switches, their status, and which of them may be asked now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE, AllowedEngines, either, in_words
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, SwitchName


class EngineNow(Struct, frozen=True, kw_only=True):
    """An engine's specification with its switches applied, and its status in the words of `GET /metrics`."""

    spec: EngineSpec
    status: str


class Fleet:
    """The configured engines, combined with the stored switches and the health of each engine."""

    def __init__(
        self,
        *,
        configured: Mapping[str, EngineSpec],
        has_credentials: Callable[[EngineSpec], bool],
        states: EngineStates,
    ) -> None:
        self._configured = configured
        real = {name: spec for name, spec in configured.items() if not spec.demonstration}
        with_model = {name: spec for name, spec in configured.items() if spec.kind == "demonstration"}
        self._serving = real or with_model or configured
        self._has_credentials = has_credentials
        self._states = states

    def serving(self) -> Mapping[str, EngineSpec]:
        """Return the engines that answer tasks.

        The demonstration engine is among them only if no real engine is configured, and the embedded engine only if no
        other engine is.
        """
        return self._serving

    def specs(self) -> dict[str, EngineSpec]:
        """Return every configured engine with its switches applied, as this process last read them."""
        return self._states.all().over(self._configured)

    def obstacle(self, spec: EngineSpec) -> str:
        """Return why an engine cannot be asked until an operator acts; "" if it can be asked. Uses no network."""
        if spec.locked or not spec.toggle:
            return "is locked" if spec.locked else "is switched off"
        return "" if self._has_credentials(spec) else "has no credentials"

    def none_configured(self, allowed: AllowedEngines) -> str:
        """Return why no configured engine is one of the allowed ones, in a sentence; "" if one is, or may be added."""
        return self._none_with_a_source(allowed) or self._none_that_takes(allowed)

    def _none_that_takes(self, allowed: AllowedEngines) -> str:
        """Return why no configured engine with an allowed source takes what is needed; "" if one does."""
        if not allowed.needs or self.admitted(allowed):
            return ""
        if allowed.engine is not None:
            return f"Engine {allowed.engine} takes no {in_words(allowed.needs).replace(' and ', ' or no ')}."
        return f"No configured {allowed.kind} is left."

    def _none_with_a_source(self, allowed: AllowedEngines) -> str:
        """Return why no configured engine has the name and one of the sources that are allowed; "" if one has."""
        specs = self._choice(allowed)
        if allowed.engine is not None and not specs:
            return f"Engine {allowed.engine} is not configured any more."
        sources = {spec.source for spec in specs.values()}
        if allowed.sources is None or sources.intersection(allowed.sources):
            return ""
        if not allowed.sources:
            return "The limits of the task and of its keys have no source in common."
        if allowed.engine is not None:
            return (
                f"Engine {allowed.engine} has the source {either(sources)}; the task may use {either(allowed.sources)}."
            )
        configured = ", ".join(sorted(sources)) or "none"
        return (
            f"No configured engine has the source {either(allowed.sources)}; the configured sources are: {configured}."
        )

    def admitted(self, allowed: AllowedEngines) -> dict[str, EngineSpec]:
        """Return the allowed engines, also those that are switched off or have no credentials."""
        found = {n: spec for n, spec in self._choice(allowed).items() if allowed.admits(n, spec.source)}
        return {n: spec for n, spec in found.items() if spec.takes(allowed.needs)} if allowed.needs else found

    def free(self, allowed: AllowedEngines) -> list[str]:
        """Return those of the allowed engines that may be asked now."""
        records = self._states.all()
        return [name for name in self._usable(records, allowed) if not self._states.rests(records.state(name))]

    def return_times(self, allowed: AllowedEngines) -> dict[str, int]:
        """Return the allowed engines a task can wait for, each with when it may be asked again (Unix milliseconds)."""
        records = self._states.all()
        return {name: self._states.return_ms(records.state(name)) for name in self._usable(records, allowed)}

    def last_return_ms(self, records: EngineRecords | None = None) -> int:
        """Return when an engine that may be asked now was last switched, or recovered, in Unix milliseconds.

        Returns 0 if none can be asked. `records` are the engines' records; without them, those that this process
        knows.
        """
        if records is None:
            records = self._states.all()
        ready = [
            name
            for name, spec in records.over(self._configured).items()
            if not self.obstacle(spec) and not self._states.rests(records.state(name))
        ]
        return max(map(records.changed_ms, ready), default=0)

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each switch of an engine, and each recovery, in this process."""
        self._states.on_change = callback

    def places(self) -> dict[str, int]:
        """Return `max_concurrency` of each engine that tasks are sent to, whether it rests or not.

        The embedded engine is left out: it only computes, so that more calls at a time do not make it faster.
        """
        usable = {name: self._configured[name] for name in self._usable(self._states.all(), ANY_ENGINE)}
        return {name: spec.max_concurrency for name, spec in usable.items() if spec.kind != "embedded"}

    def any_resting(self, allowed: AllowedEngines) -> bool:
        """Return whether one of the allowed engines, which could be asked later, rests now."""
        records = self._states.all()
        return any(self._states.rests(records.state(name)) for name in self._usable(records, allowed))

    def switch(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineNow:
        """Change an engine's switches for all processes. Running calls go on.

        Raises the errors of `EngineStates.switch`.
        """
        return self._now(self._configured, self._states.switch(engine, changes))[engine]

    def now(self, records: EngineRecords) -> dict[str, EngineNow]:
        """Return the engines that answer tasks, with the switches and the status that `records` give them."""
        return self._now(self.serving(), records)

    def status(self, records: EngineRecords) -> dict[str, str]:
        """Return the status of each engine that answers tasks: online, cooling, disabled, locked or offline."""
        return {name: engine.status for name, engine in self.now(records).items()}

    def _choice(self, allowed: AllowedEngines) -> Mapping[str, EngineSpec]:
        """Return the engines that answer tasks; if one engine is named, that engine alone, if it is configured."""
        if allowed.engine is None:
            return self._serving
        return {allowed.engine: self._configured[allowed.engine]} if allowed.engine in self._configured else {}

    def _usable(self, records: EngineRecords, allowed: AllowedEngines) -> list[str]:
        """Return the allowed engines that are switched on and have credentials, whether they rest or not."""
        specs = self.admitted(allowed)
        return [name for name, spec in records.over(specs).items() if not self.obstacle(spec)]

    def _now(self, specs: Mapping[str, EngineSpec], records: EngineRecords) -> dict[str, EngineNow]:
        return {
            name: EngineNow(spec=spec, status=self._status(spec, records.state(name)))
            for name, spec in records.over(specs).items()
        }

    def _status(self, spec: EngineSpec, state: EngineState) -> str:
        if spec.locked:
            return "locked"
        if not spec.toggle:
            return "disabled"
        if state.offline or not self._has_credentials(spec):
            return "offline"
        return "cooling" if self._states.rests(state) else "online"
