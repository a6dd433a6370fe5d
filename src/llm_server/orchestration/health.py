"""What is known of the engines' health, shared by all workers through the store: rest, and one probe after it."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from llm_server.orchestration.errors import EngineUnavailable, StorageUnavailable
from llm_server.orchestration.ports import Clock, EngineState, Store

_log = logging.getLogger(__name__)

REST_FIRST_S = 5
REST_MOST_S = 300
RETRY_AFTER_MOST_S = 600
STATE_AGE_MS = 5_000
PROBE_LOOK_S = 15
"""How soon it is worth looking again at an engine that somebody else probes."""

_WELL = EngineState()


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

    def of(self, engine: str) -> EngineState:
        return self.all().get(engine, _WELL)

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
                self._read_ms = self._clock() - STATE_AGE_MS  # somebody knows better: look again
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
        doubled = min(REST_FIRST_S * 2 ** min(before.failures, 10), REST_MOST_S)
        rest_s = doubled if error.retry_after_s is None else min(error.retry_after_s, RETRY_AFTER_MOST_S)
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
