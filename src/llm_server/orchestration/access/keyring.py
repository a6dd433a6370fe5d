"""The keyring: makes, changes and revokes API keys, finds the caller of a token, and enforces the keys' limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from llm_server.orchestration.access import tokens
from llm_server.orchestration.access.expiry import checked_expiry
from llm_server.orchestration.access.key_cache import KeyCache
from llm_server.orchestration.domain import api_key
from llm_server.orchestration.domain.api_key import Account, Caller, Key, KeyChanges, KeyLimits, KeyUse, NewKey, Payer
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import (
    DailyBudgetReserved,
    DailyBudgetSpent,
    InvalidInput,
    KeyConflict,
    KeyNotFound,
    TooManyRequests,
    Unauthenticated,
)
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.commit import AfterCommit, at_once
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.receipt import usd
from llm_server.orchestration.domain.task import DAY_MS

MAX_CHANGE_TRIES = 5
"""How often a change is tried while other calls change the same key."""

RESERVED_RETRY_S = 5
"""The Retry-After when the rest of a key's daily limit is reserved for running calls.

By then some of these calls may have ended and released what they did not cost.
"""

MINUTE_MS = 60_000


class RequestsLeft(Struct, frozen=True, kw_only=True):
    """A key's requests in this minute: `most` are allowed, `left` remain. `reset_s`: seconds to the next minute."""

    most: int
    left: int
    reset_s: int


class Keyring:
    """The API keys of a server. `random_bytes(n)` must return n bytes that cannot be guessed."""

    def __init__(
        self,
        store: KeyStore,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        *,
        after_commit: AfterCommit = at_once,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes
        self._after_commit = after_commit
        self._cache = KeyCache(store, clock)

    def create(
        self,
        tenant: str,
        scopes: Sequence[str],
        *,
        limits: KeyLimits | None = None,
        name: str = "",
        expires_ms: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key. Returns it with its token, which is not stored and cannot be read again.

        Raises:
            InvalidInput: the tenant, a scope or the name is not allowed, or `expires_ms` is not in the future.
        """
        new = NewKey(tenant=tenant, scopes=scopes, limits=limits or KeyLimits(), name=name, expires_ms=expires_ms)
        made = None
        while made is None:
            made = self.add(self.new_id(), new)
        return made

    def new_id(self) -> str:
        """Return a random id for a key: 12 hexadecimal digits."""
        return self._random_bytes(6).hex()

    def check(self, new: NewKey) -> None:
        """Check the fields of a new key without making it. Raises InvalidInput as `create`."""
        self._prepared("", new, "")

    def add(self, key_id: str, new: NewKey) -> tuple[Key, str] | None:
        """Make a key with a given id; raises what `create` raises. Returns None if the id is in use."""
        secret = self._new_secret()
        key = self._prepared(key_id, new, secret)
        self._cache.made()
        return (key, tokens.format_token(key_id, secret)) if self._store.add_key(key) else None

    def all(self) -> list[Key]:
        """Return all keys, also revoked and expired ones, oldest first."""
        return sorted(self._store.all_keys(), key=lambda key: (key.created_ms, key.key_id))

    def update(self, key_id: str, changes: KeyChanges) -> Key:
        """Change a key's name, limits or expiry. This process applies the change at once, others within 60 s.

        Raises:
            InvalidInput: a value is not allowed, or `changes` or its `limits` are empty.
            KeyNotFound: no key has this id.
            KeyConflict: the key is revoked, or other calls keep changing it.
        """
        if not changes or changes.get("limits") == {}:
            raise InvalidInput("limits", "Nothing to change: give a name, a limit or expires_at.")
        checked_expiry(changes.get("expires_ms"), self._clock())

        def changed(key: Key) -> Key:
            if key.revoked_ms is not None:
                raise KeyConflict("The key is revoked; a revoked key cannot be changed.", code="key_revoked")
            return key.changed(changes)

        return self._changed(key_id, changed)

    def rotate(self, key_id: str) -> tuple[Key, str]:
        """Give a key a new secret. Returns the key with its new token.

        The earlier secret stops working: in this process at once, in other processes within 60 s.

        Raises:
            KeyNotFound: no key has this id.
            KeyConflict: the key is revoked or expired, or other calls keep changing it.
        """
        secret = self._new_secret()

        def rotated(key: Key) -> Key:
            if not key.is_valid(self._clock()):
                if key.revoked_ms is None:
                    raise KeyConflict("The key has expired.", code="key_expired")
                raise KeyConflict("The key is revoked.", code="key_revoked")
            return replace(key, digest=tokens.digest_of(secret))

        return self._changed(key_id, rotated), tokens.format_token(key_id, secret)

    def revoke(self, key_id: str) -> None:
        """Revoke a key. This process refuses it at once, others within 60 s. Revoking it again has no effect.

        Raises:
            KeyNotFound: no key has this id.
            KeyConflict: other calls keep changing the key.
        """
        now_ms = self._clock()
        self._changed(key_id, lambda key: replace(key, revoked_ms=now_ms) if key.revoked_ms is None else key)

    def required(self, *, fresh: bool = False) -> bool:
        """Return whether callers need a key: True once a key was made, even if all keys were revoked since.

        The store is asked at most once a second, so the first key that another process makes counts within a second.
        With `fresh`, it counts at once.
        """
        return self._cache.read_any(fresh=fresh)

    def known_required(self) -> bool | None:
        """Return what `required` would return, from memory alone; None if the store must be asked."""
        return self._cache.known_any()

    def caller(self, token: str) -> Caller:
        """Return the caller that a token identifies.

        If the cached key does not accept the token, the key is read from the store again, so that a new secret and a
        later expiry work in every process at once.

        Raises:
            Unauthenticated: the token is malformed or unknown, its secret is wrong, or its key is revoked or expired.
        """
        if known := self.known_caller(token):
            return known
        key_id, secret = _parsed(token)
        key = self._cache.read(key_id)
        if key is None or not self._admits(key, secret):
            raise Unauthenticated
        return Caller.of(key)

    def known_caller(self, token: str) -> Caller | None:
        """Return the caller that a token identifies, from memory alone; None if the key must be read.

        Raises:
            Unauthenticated: the token is malformed.
        """
        key_id, secret = _parsed(token)
        key = self._cache.known(key_id)
        return Caller.of(key) if key is not None and self._admits(key, secret) else None

    def count_request(self, payer: Payer) -> RequestsLeft | None:
        """Count one request, and return how many the key has left in this minute; None if the key does not limit them.

        Raises:
            TooManyRequests: the requests of this minute were used up before.
        """
        most = payer.limits.requests_per_minute
        if most is None:
            return None
        now_ms = self._clock()
        reset_s = -(-(MINUTE_MS - now_ms % MINUTE_MS) // 1000)
        left = self._store.count_request(payer.key_id, now_ms // MINUTE_MS, most=most)
        if left is None:
            raise TooManyRequests(most, retry_after_s=reset_s)
        return RequestsLeft(most=most, left=left, reset_s=reset_s)

    def check_spending(self, payer: Payer | None) -> None:
        """Check that the daily limit of a key allows new work. Work without a key or a daily limit is always allowed.

        Raises:
            DailyBudgetSpent: the key's `usd_per_day` is spent until the next UTC day.
            DailyBudgetReserved: the rest of the key's `usd_per_day` is reserved for calls that have not ended.
        """
        most = payer.limits.microusd_per_day if payer else None
        if payer is None or most is None:
            return
        used = self.use(payer)
        if used.charged_microusd < most:
            return
        if used.charged_microusd - used.under_way_microusd < most:
            raise DailyBudgetReserved(usd(most), retry_after_s=RESERVED_RETRY_S)
        reset_s = -(-(DAY_MS - self._clock() % DAY_MS) // 1000)
        raise DailyBudgetSpent(usd(most), retry_after_s=reset_s)

    def use(self, payer: Payer) -> KeyUse:
        """Return what was charged to a key on this UTC day, and how many tasks it has in flight."""
        return self._store.use(Account(payer.key_id, day_of(self._clock())))

    def _new_secret(self) -> str:
        return self._random_bytes(32).hex()

    def _prepared(self, key_id: str, new: NewKey, secret: str) -> Key:
        now_ms = self._clock()
        return Key(
            key_id=key_id,
            tenant=api_key.checked_tenant(new.tenant),
            scopes=api_key.checked_scopes(new.scopes),
            digest=tokens.digest_of(secret),
            created_ms=now_ms,
            name=api_key.checked_name(new.name),
            limits=new.limits,
            expires_ms=checked_expiry(new.expires_ms, now_ms),
        )

    def _changed(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        """Read a key, change it and write it back; start again if another call has changed it in between."""
        for _ in range(MAX_CHANGE_TRIES):
            before = self._store.key(key_id) if tokens.is_key_id(key_id) else None
            if before is None:
                raise KeyNotFound
            after = change(before)
            try:
                if after == before or self._store.swap_key(before, after):
                    return after
            finally:
                self._cache.changed(key_id)
                self._after_commit(partial(self._cache.changed, key_id))  # the commit may take long
        raise KeyConflict("The key is being changed by other calls; try again.", code="key_changing")

    def _admits(self, key: Key, secret: str) -> bool:
        return tokens.is_secret_of(key, secret) and key.is_valid(self._clock())


def _parsed(token: str) -> tuple[str, str]:
    """Return the id and the secret in a token. Raises Unauthenticated if it is malformed."""
    parts = tokens.parse_token(token)
    if parts is None:
        raise Unauthenticated
    return parts
