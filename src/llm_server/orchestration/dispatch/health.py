"""The engines' health and switches, which all processes share through the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from llm_server.orchestration.domain.engines.state import EngineRecords, EngineState, EngineSwitch, SwitchName
from llm_server.orchestration.domain.errors import EngineUnavailable, StorageUnavailable
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.store import EngineStateStore

_log = logging.getLogger(__name__)

REST_FIRST_S = 5
MAX_REST_S = 300
MAX_RETRY_AFTER_S = 600
MAX_STATE_AGE_MS = 5_000
PROBE_LOOK_S = 15
"""Seconds after which a task looks again at an engine that another worker is probing."""

_HEALTHY = EngineState()


class EngineStates:
    """A copy of the stored health and switches of the engines, read at most every 5 s and written on every change.

    While the store cannot be reached, the last known values stay in use.
    """

    def __init__(self, store: EngineStateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.on_change: Callable[[], None] = lambda: None
        """Called after an engine was switched, or has recovered."""
        self._lock = threading.Lock()
        self._known: dict[str, EngineState] = {}
        self._switches: Mapping[str, EngineSwitch] = {}
        self._read_ms = -MAX_STATE_AGE_MS

    def all(self) -> EngineRecords:
        with self._lock:
            self._read_if_old()
            return EngineRecords(states=dict(self._known), switches=self._switches)

    def of(self, engine: str) -> EngineState:
        with self._lock:
            self._read_if_old()
            return self._known.get(engine, _HEALTHY)

    def _read_if_old(self) -> None:
        """Read the store if the last read is 5 s old. Only called while the lock is held."""
        now_ms = self._clock()
        if 0 <= now_ms - self._read_ms < MAX_STATE_AGE_MS:  # negative if the clock was set back
            return
        self._read_ms = now_ms
        try:
            records = self._store.engines()
        except StorageUnavailable:
            _log.warning("engine states not read")
        else:
            self._known, self._switches = dict(records.states), records.switches

    def switch(self, engine: str, changes: Mapping[SwitchName, bool | None]) -> EngineRecords:
        """Change an engine's switches: at once in this process, in others at their next read of the store.

        Raises:
            StorageUnavailable: the change may or may not have been stored; it is safe to repeat it.
        """
        records = self._store.switch_engine(engine, changes, now_ms=self._clock())
        with self._lock:
            self._known, self._switches, self._read_ms = dict(records.states), records.switches, self._clock()
        self.on_change()
        return records

    def rests(self, state: EngineState) -> bool:
        """Return whether an engine may not be asked now, because it rests or is being probed."""
        return max(state.rest_until_ms, state.probe_until_ms) > self._clock()

    def return_ms(self, state: EngineState) -> int:
        """Return when a task should look at an engine again, in Unix milliseconds.

        This is the end of the engine's rest, or the end of its probe, but for a probe at most 15 s from now.
        """
        soon_ms = self._clock() + PROBE_LOOK_S * 1000
        return max(state.rest_until_ms, min(state.probe_until_ms, soon_ms))

    def begin_probe(self, engine: str, lasts_s: float) -> bool:
        """Claim the right to probe an engine whose rest has ended, for `lasts_s` seconds.

        Returns False if the engine rests or another worker holds the claim. While the store cannot be reached, only the
        workers of this process exclude one another.
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
                won = self._known.get(engine, _HEALTHY) == before
                if won:
                    self._known[engine] = after
            return won
        with self._lock:
            if won:
                self._known[engine] = after
            else:
                self._read_ms = self._clock() - MAX_STATE_AGE_MS  # the store has a newer state: read it again
        return won

    def give_up_probe(self, engine: str) -> None:
        """End a probe that did not show whether the engine works; another task may probe it."""
        self._write(engine, replace(self.of(engine), probe_until_ms=0))

    def record_failure(self, engine: str, error: EngineUnavailable, *, probe: bool = False) -> None:
        """Rest an engine for its Retry-After (at most 10 min), else for 5 s, doubled at each failure up to 5 min.

        While the engine rests or is probed, only the failure of the probe counts, because all other calls started
        before the rest.
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

    def record_success(self, engine: str, *, probe: bool = False) -> None:
        """Mark an engine as healthy after its rest. Ignore answers during the rest: their calls began before it."""
        known = self.of(engine)
        if probe or (known.failures and not self.rests(known)):
            self._write(engine, EngineState(recovered_ms=self._clock()))
            self.on_change()

    def _write(self, engine: str, state: EngineState) -> None:
        with self._lock:
            self._known[engine] = state
        try:
            self._store.save_engine_state(engine, state)
        except StorageUnavailable:
            _log.warning("engine state not written", extra={"engine": engine})
