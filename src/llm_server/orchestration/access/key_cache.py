"""What a process remembers of the stored API keys, so that most calls are admitted without the store."""

from __future__ import annotations

from threading import Lock

from llm_server.orchestration.domain.api_key import Key
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import KeyStore

CACHED_MS = 60_000
"""How long a process uses a key before it reads the key again.

For this long it may miss a change or a revocation that another process made.
"""

NONE_CACHED_MS = 1_000
"""How long a process relies on an answer that no key exists. For this long it may miss another process's first key."""

UNCACHED_AFTER_CHANGE_MS = 10_000
"""For this long after a change, this process caches nothing about what it changed.

The change may not be committed yet, so a read from another thread may still find the earlier state.
"""

MAX_CACHED = 1_000


class KeyCache:
    """Caches keys, and whether any key exists. Several threads may use it.

    `known` and `known_any` answer from memory alone. `read` and `read_any` may ask the store.
    """

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._keys: dict[str, tuple[Key, int]] = {}
        self._changes: dict[str, int] = {}
        self._lock = Lock()
        self._any = False
        self._any_lock = Lock()
        self._none_since_ms = -NONE_CACHED_MS
        self._made_ms = -UNCACHED_AFTER_CHANGE_MS

    def known(self, key_id: str) -> Key | None:
        """Return a key if it was read within the last 60 s; None otherwise, also if the clock was set back since."""
        key, read_ms = self._keys.get(key_id, (None, 0))
        return key if self._is_within(CACHED_MS, read_ms) else None

    def read(self, key_id: str) -> Key | None:
        """Read a key from the store and cache it. Unknown ids are not cached, because the key may be made soon."""
        key = self._store.key(key_id)
        with self._lock:
            self._keys.pop(key_id, None)
            if key is not None and not self._is_within(
                UNCACHED_AFTER_CHANGE_MS, self._changes.get(key_id, -UNCACHED_AFTER_CHANGE_MS)
            ):
                if len(self._keys) >= MAX_CACHED:
                    self._keys.clear()
                self._keys[key_id] = (key, self._clock())
        return key

    def changed(self, key_id: str) -> None:
        """Forget a key that this process has changed."""
        with self._lock:
            self._keys.pop(key_id, None)
            self._changes = {
                changed: at_ms
                for changed, at_ms in self._changes.items()
                if self._is_within(UNCACHED_AFTER_CHANGE_MS, at_ms)
            }
            self._changes[key_id] = self._clock()

    def known_any(self) -> bool | None:
        """Return whether any key exists; None if the store must be asked. True is remembered for ever."""
        if self._any:
            return True
        settles = self._is_within(UNCACHED_AFTER_CHANGE_MS, self._made_ms)
        return False if self._is_within(NONE_CACHED_MS, self._none_since_ms) and not settles else None

    def read_any(self, *, fresh: bool = False) -> bool:
        """Return whether any key exists. Threads that ask at the same time cause one question to the store.

        With `fresh`, an earlier answer that no key exists is not used.
        """
        with self._any_lock:
            known = self.known_any()
            if known is None or (fresh and not known):
                asked_ms = self._clock()
                known = self._any = self._store.has_keys()
                self._none_since_ms = asked_ms
            return known

    def made(self) -> None:
        """Ask the store again whether any key exists, because this process makes one."""
        self._made_ms = self._clock()

    def _is_within(self, span_ms: int, since_ms: int) -> bool:
        """Return whether a time is at most `span_ms` ago; False if it is in the future, because the clock was set."""
        return 0 <= self._clock() - since_ms < span_ms
