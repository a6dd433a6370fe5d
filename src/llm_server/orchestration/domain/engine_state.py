"""What is stored of the engines: how each is, and how it was switched while the server ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from llm_server.orchestration.domain.catalog import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What the workers know of an engine; an engine without a record is well.

    It rests until `rest_until_ms`, after `failures` in a row; then one worker alone probes it with a real task, whose
    claim to that ends at `probe_until_ms`. `offline`: it could not be reached, or refused our credentials, and has not
    answered since.
    """

    failures: int = 0
    rest_until_ms: int = 0
    probe_until_ms: int = 0
    offline: bool = False
    reason: str = ""


SwitchName = Literal["toggle", "locked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSwitch:
    """What was said of an engine while the server ran; None leaves it to the configuration."""

    toggle: bool | None = None
    locked: bool | None = None

    def changed(self, changes: Mapping[SwitchName, bool | None]) -> EngineSwitch:
        """What `changes` does not name stays."""
        return EngineSwitch(toggle=changes.get("toggle", self.toggle), locked=changes.get("locked", self.locked))

    def over(self, spec: EngineSpec) -> EngineSpec:
        """The engine as it is switched now."""
        toggle = spec.toggle if self.toggle is None else self.toggle
        locked = spec.locked if self.locked is None else self.locked
        return msgspec.structs.replace(spec, toggle=toggle, locked=locked)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecords:
    """What is stored of the engines. One without a record is well, and switched as it is configured."""

    states: Mapping[str, EngineState] = field(default_factory=dict)
    switches: Mapping[str, EngineSwitch] = field(default_factory=dict)

    def state(self, engine: str) -> EngineState:
        return self.states.get(engine, EngineState())

    def over(self, specs: Mapping[str, EngineSpec]) -> dict[str, EngineSpec]:
        """Configured engines as they are switched now."""
        return {n: self.switches[n].over(spec) if n in self.switches else spec for n, spec in specs.items()}
