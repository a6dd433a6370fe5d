"""The stored records of the engines: their health, and how they were switched while the server ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct, field

from llm_server.orchestration.domain.engines.catalog import EngineSpec


class EngineState(Struct, frozen=True, kw_only=True):
    """The health of an engine. An engine without a record is healthy.

    After `failures` in a row the engine rests until `rest_until_ms`. Then one worker at a time probes it with a real
    task; that worker's turn ends at `probe_until_ms`. `offline`: the engine could not be reached or refused the
    credentials, and has not answered since. `reason` says what failed. `recovered_ms` is when the engine answered again
    after its last failures (Unix milliseconds; 0 if it has not failed before, or has failed since).
    """

    failures: int = 0
    rest_until_ms: int = 0
    probe_until_ms: int = 0
    offline: bool = False
    reason: str = ""
    recovered_ms: int = 0


SwitchName = Literal["toggle", "locked"]


class EngineSwitch(Struct, frozen=True, kw_only=True):
    """The switches of an engine that were set while the server ran. None means that the configured value applies.

    `changed_ms` is when they were last changed, in Unix milliseconds; 0 if an older version changed them.
    """

    toggle: bool | None = None
    locked: bool | None = None
    changed_ms: int = 0

    def changed(self, changes: Mapping[SwitchName, bool | None], now_ms: int) -> EngineSwitch:
        """Return the switches with `changes` applied; a switch that they do not name stays unchanged."""
        return EngineSwitch(
            toggle=changes.get("toggle", self.toggle), locked=changes.get("locked", self.locked), changed_ms=now_ms
        )

    def over(self, spec: EngineSpec) -> EngineSpec:
        """Return the engine's specification with these switches applied."""
        toggle = spec.toggle if self.toggle is None else self.toggle
        locked = spec.locked if self.locked is None else self.locked
        return msgspec.structs.replace(spec, toggle=toggle, locked=locked)


class EngineRecords(Struct, frozen=True, kw_only=True):
    """The stored records of all engines. An engine without a record is healthy and switched as configured."""

    states: Mapping[str, EngineState] = field(default_factory=dict)
    switches: Mapping[str, EngineSwitch] = field(default_factory=dict)

    def state(self, engine: str) -> EngineState:
        return self.states.get(engine, EngineState())

    def changed_ms(self, engine: str) -> int:
        """Return when the engine was last switched, or recovered, in Unix milliseconds; 0 if neither is known."""
        return max(self.state(engine).recovered_ms, self.switches.get(engine, EngineSwitch()).changed_ms)

    def over(self, specs: Mapping[str, EngineSpec]) -> dict[str, EngineSpec]:
        """Return the configured engines with the stored switches applied."""
        return {n: self.switches[n].over(spec) if n in self.switches else spec for n, spec in specs.items()}
