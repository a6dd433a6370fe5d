"""What a process remembers of triages: recent decisions, and engines whose answers were not usable."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import sha256

import msgspec

from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.execution.triage_question import Choice

MAX_DECISIONS = 2_000
KEPT_MS = 3_600_000
"""How long a decision is remembered: an hour."""
MAX_UNUSABLE = 5
"""After so many answers in a row that were late or not usable, an engine is not asked for a while."""
PAUSE_MS = 900_000


class TriageMemory:
    """The memory of one process, which has one catalogue; a restart forgets it.

    A decision is found by a digest of tenant and prompt, and neither is kept. So nothing of a deleted tenant can be
    read from it, and its decisions are gone after an hour at the latest.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._decisions = OrderedDict[bytes, tuple[int, str, Choice]]()
        """Oldest first: when it was made, the engine, and the decision."""
        self._unusable = dict[str, int]()
        self._paused_until_ms = dict[str, int]()

    @staticmethod
    def key(tenant: str, prompt: str, *terms: object) -> bytes:
        """Return the key of a decision. `terms` are what else it depends on."""
        return sha256(msgspec.json.encode((tenant, prompt, *terms))).digest()

    def decision(self, key: bytes) -> tuple[str, Choice] | None:
        """Return the engine that decided, and its decision; None if no recent one is known."""
        with self._lock:
            self._forget_old()
            found = self._decisions.get(key)
            return found[1:] if found else None

    def remember(self, key: bytes, engine: str, choice: Choice) -> None:
        """Remember a decision; the oldest ones are forgotten."""
        with self._lock:
            self._decisions[key] = (self._clock(), engine, choice)
            self._decisions.move_to_end(key)
            self._forget_old()
            while len(self._decisions) > MAX_DECISIONS:
                self._decisions.popitem(last=False)

    def _forget_old(self) -> None:
        now_ms = self._clock()
        while self._decisions and not 0 <= now_ms - next(iter(self._decisions.values()))[0] < KEPT_MS:
            self._decisions.popitem(last=False)

    def count(self, engine: str, *, usable: bool) -> bool:
        """Count an engine's answer. Returns True if the engine is not to be asked for a while from now on."""
        with self._lock:
            self._unusable[engine] = 0 if usable else self._unusable.get(engine, 0) + 1
            if self._unusable[engine] < MAX_UNUSABLE:
                return False
            self._unusable[engine] = 0
            self._paused_until_ms[engine] = self._clock() + PAUSE_MS
            return True

    def is_paused(self, engine: str) -> bool:
        """Return whether an engine is not to be asked now."""
        with self._lock:
            return self._clock() < self._paused_until_ms.get(engine, 0)
