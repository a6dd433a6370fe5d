"""The configured engines together: how each is switched, how it is, and which may be asked now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNow:
    """An engine as it is switched, and its status as `GET /metrics` names it."""

    spec: EngineSpec
    status: str


class Fleet:
    """What the configuration says of the engines, under what was switched and what happened since."""

    def __init__(
        self,
        *,
        configured: Mapping[str, EngineSpec],
        has_credentials: Callable[[EngineSpec], bool],
        states: EngineStates,
    ) -> None:
        self._configured = configured
        self._has_credentials = has_credentials
        self._states = states

    def serving(self) -> dict[str, EngineSpec]:
        """The configured engines; the embedded one only when there is no other, so that it never stands in for one."""
        real = {name: spec for name, spec in self._configured.items() if spec.kind != "embedded"}
        return real or dict(self._configured)

    def specs(self) -> dict[str, EngineSpec]:
        """Every configured engine as it is switched, as far as it is known here."""
        return self._states.all().over(self._configured)

    def barred(self, spec: EngineSpec) -> str:
        """Why an engine may not be asked until its operator changes that, "" where it may; no network."""
        if spec.locked or not spec.toggle:
            return "is locked" if spec.locked else "is switched off"
        return "" if self._has_credentials(spec) else "has no credentials"

    def free(self, only: str | None = None) -> list[str]:
        """The engines that may be asked now, or the one that is named if it may."""
        return [name for name in self._usable(only) if not self._states.rests(self._states.of(name))]

    def awaited(self, only: str | None = None) -> dict[str, int]:
        """The engines a task can wait for, and when each may be asked again (Unix milliseconds)."""
        return {name: self._states.back_ms(self._states.of(name)) for name in self._usable(only)}

    def some_rest(self, only: str | None = None) -> bool:
        """Whether one that is too busy now may be cheaper than those that were too dear."""
        return any(self._states.rests(self._states.of(name)) for name in self._usable(only))

    def switch(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineNow:
        """Switch a configured engine, for every process; calls that run, end. Raises as `EngineStates.switch`."""
        return self._now(self._configured, self._states.switch(engine, changes))[engine]

    def now(self, records: EngineRecords) -> dict[str, EngineNow]:
        """Return the engines that serve, as `records` describe them."""
        return self._now(self.serving(), records)

    def status(self, records: EngineRecords) -> dict[str, str]:
        """Return the status of each engine that serves: online, cooling, disabled, locked or offline."""
        return {name: engine.status for name, engine in self.now(records).items()}

    def _usable(self, only: str | None) -> list[str]:
        """The engines that are switched on and have credentials, resting or not."""
        asked = self.serving() if only is None else {n: s for n, s in self._configured.items() if n == only}
        switched = self._states.all().over(asked)
        return [n for n, s in switched.items() if not self.barred(s)]

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
