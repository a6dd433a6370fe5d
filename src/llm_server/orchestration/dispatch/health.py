"""What is known of the engines, shared by all processes through the store: switches, rest, and one probe after it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace

from llm_server.orchestration.domain.engine_state import EngineRecords, EngineState, EngineSwitch, SwitchName
from llm_server.orchestration.domain.errors import EngineUnavailable, StorageUnavailable
from llm_server.orchestration.domain.ports import Clock, EngineStateStore

_log = logging.getLogger(__name__)

REST_FIRST_S = 5
MAX_REST_S = 300
MAX_RETRY_AFTER_S = 600
STATE_AGE_MS = 5_000
PROBE_LOOK_S = 15
"""How soon it is worth looking again at an engine that another worker probes."""

_WELL = EngineState()


class EngineStates:
    """The engines' health and switches as the store has them, read at most every 5 s, written only when they change.

    It is advice: while the store cannot be reached, what is known here goes on to hold.
    """

    def __init__(self, store: EngineStateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, EngineState] = {}
        self._switches: Mapping[str, EngineSwitch] = {}
        self._read_ms = -STATE_AGE_MS

    def all(self) -> EngineRecords:
        with self._lock:
            if not 0 <= self._clock() - self._read_ms < STATE_AGE_MS:  # the clock may have been set back
                self._read_ms = self._clock()
                try:
                    records = self._store.engines()
                except StorageUnavailable:
                    _log.warning("engine states not read")
                else:
                    self._known, self._switches = dict(records.states), records.switches
            return EngineRecords(states=dict(self._known), switches=self._switches)

    def of(self, engine: str) -> EngineState:
        return self.all().state(engine)

    def switch(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        """Switch an engine: here at once, elsewhere when that process reads the next time.

        Raises:
            StorageUnavailable: the switch may not have been stored; calling this again has no further effect.
        """
        records = self._store.switch_engine(engine, changes)
        with self._lock:
            self._read_ms = self._clock() - STATE_AGE_MS  # of two switches at once the store knows the later one
        return records

    def rests(self, state: EngineState) -> bool:
        """Whether an engine may not be asked: it rests, or another worker's probe has not ended."""
        return max(state.rest_until_ms, state.probe_until_ms) > self._clock()

    def back_ms(self, state: EngineState) -> int:
        """When an engine may be asked again; how long a probe takes is not known, so that is looked at soon."""
        soon_ms = self._clock() + PROBE_LOOK_S * 1000
        return max(state.rest_until_ms, min(state.probe_until_ms, soon_ms))

    def begin_probe(self, engine: str, lasts_s: float) -> bool:
        """Win the right to ask an engine whose rest has ended, for `lasts_s` seconds; False when another has it.

        Without the store the workers of this process still keep to one probe.
        """
        before = self.of(engine)
        if self.rests(before):
            return False
        after = replace(before, probe_until_ms=self._clock() + int(lasts_s * 1000))
        try:
            won = self._store.swap_engine_state(engine, before, after)
        except StorageUnavailable:
            _log.warning("engine state not written", extra={"engine": engine})
            with self._lock:
                won = self._known.get(engine, _WELL) == before
                self._known[engine] = after if won else self._known.get(engine, _WELL)
            return won
        with self._lock:
            if won:
                self._known[engine] = after
            else:
                self._read_ms = self._clock() - STATE_AGE_MS  # the store has a newer state: read it again
        return won

    def give_up_probe(self, engine: str) -> None:
        """End a probe that says nothing about the engine; another task may probe it."""
        self._write(engine, replace(self.of(engine), probe_until_ms=0))

    def failed(self, engine: str, error: EngineUnavailable, *, probe: bool = False) -> None:
        """Rest an engine: as long as it asked for, else 5 s doubling to 5 min.

        While it rests or is probed, only the probe's failure counts: the other calls began before.
        """
        before = self.of(engine)
        if self.rests(before) and not probe:
            return
        doubled = min(REST_FIRST_S * 2 ** min(before.failures, 10), MAX_REST_S)
        rest_s = doubled if error.retry_after_s is None else min(error.retry_after_s, MAX_RETRY_AFTER_S)
        self._write(
            engine,
            EngineState(
                failures=before.failures + 1,
                rest_until_ms=self._clock() + int(rest_s * 1000),
                offline=before.offline or error.kind in ("unreachable", "credentials"),
                reason=str(error)[:200],
            ),
        )

    def answered(self, engine: str, *, probe: bool = False) -> None:
        """An engine that answers after its rest is well again; a call that began before the rest proves nothing."""
        known = self.of(engine)
        if probe or (known.failures and not self.rests(known)):
            self._write(engine, _WELL)

    def _write(self, engine: str, state: EngineState) -> None:
        with self._lock:
            self._known[engine] = state
        try:
            self._store.save_engine_state(engine, state)
        except StorageUnavailable:
            _log.warning("engine state not written", extra={"engine": engine})
