"""The API key: its tenant, its scopes and its limits. The store holds a digest of its secret, never the secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import TypedDict

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict, replace

from llm_server.orchestration.domain.engines.allowed import checked_sources, without_unset_sources
from llm_server.orchestration.domain.engines.catalog import Sources
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD

SCOPES = ("tasks", "metrics", "admin")
"""What a key may use. `tasks`: tasks, usage and the catalogue; `metrics`: the figures of the whole server;
`admin`: its engines and keys.
"""

LOCAL_TENANT = "local"
TENANT_PATTERN = "[a-z0-9-]{1,40}"
MAX_NAME = 100
MAX_COUNT = 1_000_000
"""The highest `requests_per_minute` and `tasks_in_flight`."""

MIN_USD, MAX_USD = 0.000001, 1_000_000
_TENANT = re.compile(TENANT_PATTERN)


class LimitChanges(TypedDict, total=False):
    """The limits to change, as callers write them. None removes a limit. A limit that is left out stays unchanged."""

    requests_per_minute: int | None
    tasks_in_flight: int | None
    usd_per_day: float | None
    sources: Sequence[str] | None


class KeyChanges(TypedDict, total=False):
    """The fields of a key to change. A field that is left out stays unchanged.

    `expires_ms` is in Unix milliseconds; None means that the key never expires.
    """

    name: str
    limits: LimitChanges
    expires_ms: int | None


class KeyLimits(Struct, frozen=True, kw_only=True):
    """The limits of a key; None means no limit. Minutes and days are those of the UTC clock.

    The engine calls of a task that is created, retried or approved with the key go only to engines with one of the
    `sources`.
    """

    requests_per_minute: int | None = None
    tasks_in_flight: int | None = None
    microusd_per_day: int | None = None
    sources: Sources | None = None

    @classmethod
    def of(
        cls,
        *,
        requests_per_minute: int | None = None,
        tasks_in_flight: int | None = None,
        usd_per_day: float | None = None,
        sources: Sequence[str] | None = None,
    ) -> KeyLimits:
        """Check limits as callers write them.

        Raises InvalidInput if one is out of range or not a number (NaN), or as `checked_sources`.
        """
        for name, count in (("requests_per_minute", requests_per_minute), ("tasks_in_flight", tasks_in_flight)):
            if count is not None and not 1 <= count <= MAX_COUNT:
                raise InvalidInput(name, f"The limit {name} must be a whole number from 1 to {MAX_COUNT:,}.")
        if usd_per_day is not None and not MIN_USD <= usd_per_day <= MAX_USD:
            raise InvalidInput("usd_per_day", f"The limit usd_per_day must be from {MIN_USD:f} to {MAX_USD:,}.")
        return cls(
            requests_per_minute=requests_per_minute,
            tasks_in_flight=tasks_in_flight,
            microusd_per_day=None if usd_per_day is None else round(usd_per_day * MICROUSD_PER_USD),
            sources=checked_sources(sources),
        )

    def changed(self, changes: LimitChanges) -> KeyLimits:
        """Return these limits with the given ones replaced. Raises InvalidInput as `of`."""
        checked = asdict(KeyLimits.of(**changes))
        names = ("microusd_per_day" if name == "usd_per_day" else name for name in changes)
        return replace(self, **{name: checked[name] for name in names})


class NewKey(Struct, frozen=True, kw_only=True):
    """A key to make, before it has an id and a secret.

    `expires_ms` is in Unix milliseconds; None means that the key never expires.
    """

    tenant: str
    scopes: Sequence[str]
    name: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)
    expires_ms: int | None = None

    def digest(self) -> str:
        """Return a hash of all fields as hex. Neither the order of the scopes nor a repeated scope changes it."""
        plain = without_unset_sources(replace(self, scopes=sorted(set(self.scopes))))
        given = {name: value for name, value in plain.items() if value != _DEFAULTS[name]}
        return sha256(msgspec.json.encode(given, order="sorted")).hexdigest()


_DEFAULTS = without_unset_sources(NewKey(tenant="", scopes=()))


class Key(Struct, frozen=True, kw_only=True):
    """One key as it is stored. `digest` is the SHA-256 of its secret as hex.

    A key whose `revoked_ms` is set, or whose `expires_ms` has passed, is refused. Revoked and expired keys stay stored.
    """

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    digest: str
    created_ms: int
    name: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)
    revoked_ms: int | None = None
    expires_ms: int | None = None

    def is_expired(self, now_ms: int) -> bool:
        """Return whether the key has expired: from `expires_ms` on, that millisecond included."""
        return self.expires_ms is not None and self.expires_ms <= now_ms

    def is_valid(self, now_ms: int) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_ms is None and not self.is_expired(now_ms)

    def changed(self, changes: KeyChanges) -> Key:
        """Return the key with the given fields replaced. Raises InvalidInput if a value is not allowed."""
        return replace(
            self,
            name=checked_name(changes.get("name", self.name)),
            limits=self.limits.changed(changes.get("limits", {})),
            expires_ms=changes.get("expires_ms", self.expires_ms),
        )


class Charge(Struct, frozen=True, kw_only=True):
    """The key that a task's calls are charged to, and its limit for a UTC day when the task was accepted."""

    key_id: str
    microusd_per_day: int


class Payer(Struct, frozen=True, kw_only=True):
    """The key that a call was made with, and its limits."""

    key_id: str
    limits: KeyLimits

    @property
    def charge(self) -> Charge | None:
        """The key and its daily limit, to charge engine calls to; None if the key has no `usd_per_day`."""
        if self.limits.microusd_per_day is None:
            return None
        return Charge(key_id=self.key_id, microusd_per_day=self.limits.microusd_per_day)

    @property
    def counted_for(self) -> str:
        """The key's id if the key limits `tasks_in_flight`, so that its open tasks are counted; otherwise ""."""
        return "" if self.limits.tasks_in_flight is None else self.key_id


class Caller(Struct, frozen=True, kw_only=True):
    """The caller of the server: its tenant and the scopes of its key. `payer` is None on a server without keys."""

    tenant: str = LOCAL_TENANT
    scopes: tuple[str, ...] = SCOPES
    payer: Payer | None = None

    @classmethod
    def of(cls, key: Key) -> Caller:
        return cls(tenant=key.tenant, scopes=key.scopes, payer=Payer(key_id=key.key_id, limits=key.limits))


class Account(Struct, frozen=True):
    """A key on one UTC day (`YYYY-MM-DD`). The key's engine calls of that day are charged to this account."""

    key_id: str
    day: str


class Charges(Struct, frozen=True, kw_only=True):
    """The total that was charged to an account.

    It includes two amounts whose real cost is not known yet, or never. `under_way_microusd` is reserved for calls that
    have not ended, or whose worker died. `withheld_microusd` stays charged because the engine may bill it: the call was
    late, broke off, was cancelled, or did not report its tokens.
    """

    charged_microusd: int = 0
    under_way_microusd: int = 0
    withheld_microusd: int = 0

    @property
    def unsettled_microusd(self) -> int:
        """The part of the charge that may or may not have been spent."""
        return self.under_way_microusd + self.withheld_microusd


class KeyUse(Charges, frozen=True, kw_only=True):
    """The charges of an account and its key's tasks in flight; each is counted only while the key limits it."""

    tasks_in_flight: int = 0


def checked_tenant(name: str) -> str:
    """Check and return a tenant's name. Raises InvalidInput if it is not allowed."""
    if not _TENANT.fullmatch(name):
        raise InvalidInput("tenant", "A tenant's name must have 1 to 40 characters of a to z, 0 to 9 and -.")
    return name


def checked_name(name: str) -> str:
    """Check and return a key's name. Raises InvalidInput if it is too long or contains unprintable characters."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput("name", f"A key's name must have at most {MAX_NAME} characters, all of them printable.")
    return name


def checked_scopes(names: Sequence[str]) -> tuple[str, ...]:
    """Check scopes and return them in the order of `SCOPES`, without duplicates.

    Raises:
        InvalidInput: a scope is unknown, or the list is empty.
    """
    for name in names:
        if name not in SCOPES:
            raise InvalidInput("scopes", f"Unknown scope {name[:60]!r}; known are {', '.join(SCOPES)}.")
    if not names:
        raise InvalidInput("scopes", f"A key needs at least one scope; known are {', '.join(SCOPES)}.")
    return tuple(name for name in SCOPES if name in names)
