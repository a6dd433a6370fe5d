"""The API key: whose it is, what it allows, how much of it; the store holds a digest, never the secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.receipt import MICROUSD_PER_USD

SCOPES = ("tasks", "metrics", "admin")
"""tasks: tasks, usage, catalog. metrics: the figures of the whole server. admin: its engines and keys."""

LOCAL_TENANT = "local"
TENANT_PATTERN = "[a-z0-9-]{1,40}"
MAX_NAME = 100
MAX_COUNT = 1_000_000
"""Of requests a minute and of tasks in flight."""

MIN_USD, MAX_USD = 0.000001, 1_000_000
_TENANT = re.compile(TENANT_PATTERN)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """How much a key allows; None is no limit. A minute and a day are those of the clock in UTC."""

    requests_per_minute: int | None = None
    tasks_in_flight: int | None = None
    microusd_per_day: int | None = None

    @classmethod
    def of(
        cls,
        *,
        requests_per_minute: int | None = None,
        tasks_in_flight: int | None = None,
        usd_per_day: float | None = None,
    ) -> KeyLimits:
        """Limits as people say them. Raises InvalidInput: one is out of its range, or not a number at all."""
        for name, count in (("requests_per_minute", requests_per_minute), ("tasks_in_flight", tasks_in_flight)):
            if count is not None and not 1 <= count <= MAX_COUNT:
                raise InvalidInput(name, f"The limit {name} is a whole number from 1 to {MAX_COUNT:,}.")
        if usd_per_day is not None and not MIN_USD <= usd_per_day <= MAX_USD:
            raise InvalidInput("usd_per_day", f"The limit usd_per_day is a number from {MIN_USD:f} to {MAX_USD:,}.")
        return cls(
            requests_per_minute=requests_per_minute,
            tasks_in_flight=tasks_in_flight,
            microusd_per_day=None if usd_per_day is None else round(usd_per_day * MICROUSD_PER_USD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key as it is stored; `digest` is the SHA-256 of its secret as hex. A revoked key is kept, and refused."""

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    digest: str
    created_ms: int
    name: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The key that a task's calls are charged to, and the most a UTC day may cost it."""

    key_id: str
    microusd_per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """The key a call was made with, and the limits it sets."""

    key_id: str
    limits: KeyLimits

    @property
    def charge(self) -> Charge | None:
        """What the key's calls are charged to; None where nobody counts what they cost."""
        if self.limits.microusd_per_day is None:
            return None
        return Charge(key_id=self.key_id, microusd_per_day=self.limits.microusd_per_day)

    @property
    def counted_for(self) -> str:
        """The key among whose tasks in flight its tasks are, "" where nobody counts them."""
        return "" if self.limits.tasks_in_flight is None else self.key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: one tenant's key, or nobody in particular on a server without keys (`payer` is None)."""

    tenant: str = LOCAL_TENANT
    scopes: tuple[str, ...] = SCOPES
    payer: Payer | None = None

    @classmethod
    def of(cls, key: Key) -> Caller:
        return cls(tenant=key.tenant, scopes=key.scopes, payer=Payer(key_id=key.key_id, limits=key.limits))


@dataclass(frozen=True, slots=True)
class Account:
    """What a key's calls are charged to: the key on one UTC day (`YYYY-MM-DD`)."""

    key_id: str
    day: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charges:
    """What was charged to an account, in all.

    Two parts of the charge are no known costs. `under_way_microusd` is set aside for calls that have not ended, or
    whose worker died. `withheld_microusd` stays charged because the engine may bill it: the call was late, broke off,
    was cancelled, or did not report its tokens.
    """

    charged_microusd: int = 0
    under_way_microusd: int = 0
    withheld_microusd: int = 0

    @property
    def unsettled_microusd(self) -> int:
        """The part of the charge of which nobody knows whether it was spent."""
        return self.under_way_microusd + self.withheld_microusd


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse(Charges):
    """What was charged to an account and what its key has in flight, each counted only where the key limits it."""

    tasks_in_flight: int = 0


def checked_tenant(name: str) -> str:
    """Return a tenant's name. Raises InvalidInput when none can have it."""
    if not _TENANT.fullmatch(name):
        raise InvalidInput("tenant", "A tenant's name has 1 to 40 characters of a to z, 0 to 9 and -.")
    return name


def checked_name(name: str) -> str:
    """Return what people call a key. Raises InvalidInput when it is too long, or could spoof the list it stands in."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput("name", f"A key's name has at most {MAX_NAME} characters, all of them printable.")
    return name


def checked_scopes(names: Sequence[str]) -> tuple[str, ...]:
    """Return scopes in their order, each once. Raises InvalidInput for one that is unknown, or none at all."""
    for name in names:
        if name not in SCOPES:
            raise InvalidInput("scopes", f"Unknown scope {name[:60]!r}; known are {', '.join(SCOPES)}.")
    if not names:
        raise InvalidInput("scopes", f"A key needs at least one scope; known are {', '.join(SCOPES)}.")
    return tuple(name for name in SCOPES if name in names)
