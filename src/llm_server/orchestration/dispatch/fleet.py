"""All configured engines: their switches, their status, and which of them may be asked now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, SwitchName


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNow:
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
        real = {name: spec for name, spec in configured.items() if spec.kind != "embedded"}
        self._serving = real or configured
        self._has_credentials = has_credentials
        self._states = states

    def serving(self) -> Mapping[str, EngineSpec]:
        """Return the engines that answer tasks: the embedded engine only if no other engine is configured."""
        return self._serving

    def specs(self) -> dict[str, EngineSpec]:
        """Return every configured engine with its switches applied, as this process last read them."""
        return self._states.all().over(self._configured)

    def obstacle(self, spec: EngineSpec) -> str:
        """Return why an engine cannot be asked until an operator acts; "" if it can be asked. Uses no network."""
        if spec.locked or not spec.toggle:
            return "is locked" if spec.locked else "is switched off"
        return "" if self._has_credentials(spec) else "has no credentials"

    def free(self, only: str | None = None) -> list[str]:
        """Return the engines that may be asked now; with `only`, that engine if it may be asked."""
        records = self._states.all()
        return [name for name in self._usable(records, only) if not self._states.rests(records.state(name))]

    def return_times(self, only: str | None = None) -> dict[str, int]:
        """Return the engines a task can wait for, each with the time it may be asked again (Unix milliseconds)."""
        records = self._states.all()
        return {name: self._states.return_ms(records.state(name)) for name in self._usable(records, only)}

    def last_return_ms(self, records: EngineRecords | None = None) -> int:
        """Return when an engine that may be asked now was last switched, or recovered, in Unix milliseconds.

        Returns 0 if there is no such engine. `records` are the engines' records; without them, those that this process
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
        usable = {name: self._configured[name] for name in self._usable(self._states.all(), None)}
        return {name: spec.max_concurrency for name, spec in usable.items() if spec.kind != "embedded"}

    def any_resting(self, only: str | None = None) -> bool:
        """Return whether an engine that could be asked later rests now."""
        records = self._states.all()
        return any(self._states.rests(records.state(name)) for name in self._usable(records, only))

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

    def _usable(self, records: EngineRecords, only: str | None) -> list[str]:
        """Return the engines that are switched on and have credentials, whether they rest or not."""
        if only is None:
            specs = self._serving
        else:
            specs = {only: self._configured[only]} if only in self._configured else {}
        switched = records.over(specs)
        return [name for name, spec in switched.items() if not self.obstacle(spec)]

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
