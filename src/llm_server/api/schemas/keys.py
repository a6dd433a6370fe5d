"""What comes in and goes out over HTTP about API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from llm_server.api.schemas.base import Strict, whole
from llm_server.orchestration.domain import api_key as keys

PRINTABLE = r"^[ \p{L}\p{M}\p{N}\p{P}\p{S}]*$"
"""`str.isprintable` as ECMA-262 says it: letters, marks, numbers, punctuation, symbols and the space."""


class KeyLimitsView(Strict):
    """What a key allows; null is no limit. A minute and a day are those of the UTC clock."""

    requests_per_minute: int | None
    tasks_in_flight: int | None
    usd_per_day: float | None


class KeyView(Strict):
    """A key, without its secret."""

    key_id: str
    tenant: str
    scopes: list[str]
    name: str
    limits: KeyLimitsView
    created_at: str
    revoked_at: str | None


class CreatedKey(KeyView):
    """A new key and, this once, its token."""

    token: str


class KeyList(Strict):
    """Every key, oldest first; revoked ones are kept."""

    keys: list[KeyView]


class NewKeyLimits(Strict):
    """How much a key allows; left out: no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=keys.MAX_COUNT), BeforeValidator(whole)] | None = None
    tasks_in_flight: Annotated[int, Field(ge=1, le=keys.MAX_COUNT), BeforeValidator(whole)] | None = None
    usd_per_day: float | None = Field(default=None, ge=keys.MIN_USD, le=keys.MAX_USD, description="Of engine calls.")

    def to_domain(self) -> keys.KeyLimits:
        return keys.KeyLimits.of(**self.model_dump())


class NewKey(Strict):
    """Whose the key is and what it is for."""

    # the patterns are for the description: the keyring holds to them, and says better what is wrong
    tenant: str = Field(json_schema_extra={"pattern": f"^{keys.TENANT_PATTERN}$"}, examples=["acme"])
    scopes: list[Literal["tasks", "metrics", "admin"]] = Field(min_length=1, max_length=3)
    name: str = Field(
        default="",
        json_schema_extra={"maxLength": keys.MAX_NAME, "pattern": PRINTABLE},
        description="For people; shown in listings.",
    )
    limits: NewKeyLimits = Field(default_factory=NewKeyLimits)
