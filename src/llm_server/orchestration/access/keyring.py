"""The keyring: makes, lists and revokes API keys, finds the caller of a token, and holds keys to their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llm_server.orchestration.access import tokens
from llm_server.orchestration.domain import api_key
from llm_server.orchestration.domain.api_key import Account, Caller, Key, KeyLimits, KeyUse, Payer
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import (
    DailyBudgetReserved,
    DailyBudgetSpent,
    KeyNotFound,
    TooManyRequests,
    Unauthenticated,
)
from llm_server.orchestration.domain.ports import Clock, KeyStore
from llm_server.orchestration.domain.receipt import usd
from llm_server.orchestration.domain.task import DAY_MS

CACHED_MS = 60_000
"""How long another process may take a key that was revoked."""

MAX_CACHED = 1_000
SETTLES_S = 5
"""When it is worth looking again whether a call has given back what it did not cost."""

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsLeft:
    """How many requests of this minute a key still has, and when the next minute begins."""

    most: int
    left: int
    reset_s: int


class Keyring:
    """The keys of a server. `random_bytes(n)` gives n bytes nobody can guess."""

    def __init__(self, store: KeyStore, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._store = store
        self._clock = clock
        self._random_bytes = random_bytes
        self._known: dict[str, tuple[Key, int]] = {}
        self._any = False

    def create(
        self, tenant: str, scopes: Sequence[str], *, limits: KeyLimits | None = None, name: str = ""
    ) -> tuple[Key, str]:
        """Make a key; returned with its token, which is told this once and stored nowhere.

        Raises:
            InvalidInput: the tenant's name, a scope or the key's name is not allowed.
        """
        secret = self._random_bytes(32).hex()
        key = Key(
            key_id=self._random_bytes(6).hex(),
            tenant=api_key.checked_tenant(tenant),
            scopes=api_key.checked_scopes(scopes),
            digest=tokens.digest_of(secret),
            created_ms=self._clock(),
            name=api_key.checked_name(name),
            limits=limits or KeyLimits(),
        )
        self._store.put_key(key)
        return key, tokens.format_token(key.key_id, secret)

    def all(self) -> list[Key]:
        """Every key, the revoked ones too, oldest first."""
        return sorted(self._store.all_keys(), key=lambda key: (key.created_ms, key.key_id))

    def revoke(self, key_id: str) -> None:
        """Refuse a key from now on, in other processes within 60 s; once more changes nothing. Raises KeyNotFound."""
        key = self._store.key(key_id) if tokens.is_key_id(key_id) else None
        if key is None:
            raise KeyNotFound
        self._known.pop(key_id, None)
        if key.revoked_ms is None:
            self._store.put_key(replace(key, revoked_ms=self._clock()))

    def required(self) -> bool:
        """Whether callers need a key: since the first was made, and also after the last was revoked."""
        self._any = self._any or self._store.has_keys()
        return self._any

    def caller(self, token: str) -> Caller:
        """Who a token belongs to. Raises Unauthenticated: unknown, wrong and revoked are not told apart."""
        parts = tokens.parse_token(token)
        key = self._cached(parts[0]) if parts else None
        if parts is None or key is None or not tokens.is_secret_of(key, parts[1]) or key.revoked_ms is not None:
            raise Unauthenticated
        return Caller.of(key)

    def count_request(self, payer: Payer) -> RequestsLeft | None:
        """Take one request of this minute's; None where the key does not limit them. Raises TooManyRequests."""
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
        """Refuse new work when the key's money of this day is spent or reserved.

        Raises:
            DailyBudgetSpent: the money is spent until the next UTC day.
            DailyBudgetReserved: what is left is reserved for calls that have not ended.
        """
        most = payer.limits.microusd_per_day if payer else None
        if payer is None or most is None:
            return
        used = self.use(payer)
        if used.charged_microusd < most:
            return
        if used.charged_microusd - used.under_way_microusd < most:
            raise DailyBudgetReserved(usd(most), retry_after_s=SETTLES_S)
        reset_s = -(-(DAY_MS - self._clock() % DAY_MS) // 1000)
        raise DailyBudgetSpent(usd(most), retry_after_s=reset_s)

    def use(self, payer: Payer) -> KeyUse:
        """What was charged to a key today and what it has in flight."""
        return self._store.use(Account(payer.key_id, day_of(self._clock())))

    def _cached(self, key_id: str) -> Key | None:
        """A key as it was at most 60 s ago; one that is not known is asked for each time, for it may just be made."""
        now_ms = self._clock()
        found, until_ms = self._known.get(key_id, (None, 0))
        if found is not None and until_ms - CACHED_MS <= now_ms < until_ms:  # not when the clock was set back, either
            return found
        key = self._store.key(key_id)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        if key is not None:
            self._known[key_id] = (key, now_ms + CACHED_MS)
        else:
            self._known.pop(key_id, None)
        return key
