"""The request and response schemas of API keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from llm_server.api.schemas.base import RequestSchema, ResponseSchema, SourceList, whole
from llm_server.orchestration.access.expiry import parse_expires_at
from llm_server.orchestration.domain import api_key as keys
from llm_server.orchestration.domain.engines.catalog import Source

PRINTABLE = (
    r"^[^\u0000-\u001f\u007f-\u00a0\u00ad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    r"\ue000-\uf8ff\ufeff\ufff9-\ufffb\ufffe\uffff]*$"
)
"""Matches every text for which `str.isprintable` is true, and some others, in ECMA-262 without the flag `u`.

It excludes the control, format and private-use characters and the spaces of the Basic Multilingual Plane.
"""

NAME: dict[str, Any] = {"maxLength": keys.MAX_NAME, "pattern": PRINTABLE}
_KEY_ID, _NAME = "4f1c09a2be77", "CI pipeline"
_CREATED_AT, _EXPIRES_AT = "2030-01-15T09:30:00.000Z", "2030-12-31T23:59:59.000Z"
_LIMITS = {"requests_per_minute": 60, "tasks_in_flight": 5, "usd_per_day": 2.5, "sources": ["local", "api"]}

Scope = Literal["tasks", "metrics", "admin"]
Count = Annotated[int, Field(ge=1, le=keys.MAX_COUNT), BeforeValidator(whole)]
Usd = Annotated[float, Field(ge=keys.MIN_USD, le=keys.MAX_USD)]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

_REQUESTS = "The most requests in a minute of the UTC clock. Further calls are answered 429."
_IN_FLIGHT = "The most tasks of the key that are not final. Calls for further tasks are answered 429."
_USD = "The most that the key's engine calls may cost on a UTC day, in USD."
_SOURCES = (
    "The sources of the engines that the server may call for tasks which are created, retried or approved with the key."
    " `local`: engines on the operator's own machines. `api`: hosted services."
)
KeyName = Annotated[
    str,
    Field(
        json_schema_extra=NAME,
        description="A name for people; shown in listings. At most 100 characters, all of them printable.",
        examples=[_NAME],
    ),
]


class KeyLimitsView(ResponseSchema):
    """The limits of a key. Null: no limit."""

    requests_per_minute: int | None = Field(description=_REQUESTS, examples=[60])
    tasks_in_flight: int | None = Field(description=_IN_FLIGHT, examples=[5])
    usd_per_day: float | None = Field(description=_USD, examples=[2.5])
    sources: list[Source] | None = Field(description=_SOURCES, examples=[["local"]])


class KeyView(ResponseSchema):
    """A key without its secret."""

    key_id: str = Field(description="The key's id: 12 hexadecimal digits. It is not secret.", examples=[_KEY_ID])
    tenant: str = Field(description="The tenant whose tasks the key can read, create and change.", examples=["acme"])
    scopes: list[Scope] = Field(
        description="The calls that the key may make. `tasks`: tasks, usage and the catalogue. `metrics`: the metrics "
        "of the whole server. `admin`: the engines and keys of the whole server.",
        examples=[["tasks", "metrics"]],
    )
    name: str = Field(description="A name for people. It may be empty.", examples=[_NAME])
    limits: KeyLimitsView = Field(description="The limits of the key.", examples=[_LIMITS])
    created_at: Instant = Field(description="When the key was made, RFC 3339 in UTC.", examples=[_CREATED_AT])
    expires_at: Instant | None = Field(
        description="When the key expires, RFC 3339 in UTC: it is refused from then on. Null: it does not expire.",
        examples=[_EXPIRES_AT],
    )
    revoked_at: Instant | None = Field(
        description="When the key was revoked, RFC 3339 in UTC. Null if the key is not revoked.",
        examples=["2030-03-01T12:00:00.000Z"],
    )


class CreatedKey(KeyView):
    """A key and its token. No other response contains the token."""

    token: str = Field(
        description="The secret that callers send as `Authorization: Bearer <token>` or `X-Api-Key: <token>`.",
        examples=[f"llms_{_KEY_ID}_{'0123456789abcdef' * 4}"],
    )


class KeyList(ResponseSchema):
    """The keys of all tenants, oldest first. Revoked and expired keys are listed, too."""

    keys: list[KeyView] = Field(description="The keys, oldest first.")


class NewKeyLimits(RequestSchema):
    """The limits of a new key. A limit that is left out or null is not set."""

    requests_per_minute: Count | None = Field(default=None, description=_REQUESTS, examples=[60])
    tasks_in_flight: Count | None = Field(default=None, description=_IN_FLIGHT, examples=[5])
    usd_per_day: Usd | None = Field(default=None, description=_USD, examples=[2.5])
    sources: SourceList | None = Field(default=None, description=_SOURCES, examples=[["local"]])


class NewKey(RequestSchema):
    """The tenant, scopes and limits of a new key."""

    # the patterns only describe tenant and name; the keyring checks them with clearer messages
    tenant: str = Field(
        json_schema_extra={"pattern": f"^{keys.TENANT_PATTERN}$"},
        description="The tenant whose tasks the key can read, create and change: 1 to 40 of a to z, 0 to 9 and -.",
        examples=["acme"],
    )
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=3,
        description="The calls that the key may make. `tasks`: tasks, usage and the catalogue. `metrics`: the metrics "
        "of the whole server. `admin`: the engines and keys of the whole server.",
        examples=[["tasks", "metrics"]],
    )
    name: KeyName = ""
    limits: NewKeyLimits = Field(
        default_factory=NewKeyLimits, description="The limits of the key. Default: no limits.", examples=[_LIMITS]
    )
    expires_at: Instant | None = Field(
        default=None,
        description="When the key expires: an RFC 3339 date and time with an offset, in the future. The key is refused "
        "from then on. Default: it does not expire.",
        examples=[_EXPIRES_AT],
    )

    def to_domain(self) -> keys.NewKey:
        return keys.NewKey(
            tenant=self.tenant,
            scopes=self.scopes,
            name=self.name,
            limits=keys.KeyLimits.of(**self.limits.model_dump()),
            expires_ms=_milliseconds(self.expires_at),
        )


def _described(schema: dict[str, Any]) -> None:
    """Describe changes: at least one field, and no defaults, because a field that is left out does not change."""
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default", None)


class ChangedLimits(NewKeyLimits):
    """Changed limits of a key. Null removes a limit; a limit that is left out does not change."""

    model_config = ConfigDict(json_schema_extra=_described)


class KeyChange(RequestSchema):
    """The fields of a key to change, at least one. A field that is left out does not change."""

    model_config = ConfigDict(json_schema_extra=_described)

    name: KeyName = ""
    limits: ChangedLimits = Field(
        default_factory=ChangedLimits,
        description="The limits to change: null removes a limit, and a limit that is left out does not change.",
        examples=[{"requests_per_minute": 120}],
    )
    expires_at: Instant | None = Field(
        default=None,
        description="When the key expires: an RFC 3339 date and time with an offset, in the future. The key is refused "
        "from then on. Null: it does not expire.",
        examples=[_EXPIRES_AT],
    )

    def to_domain(self) -> keys.KeyChanges:
        changes: Any = self.model_dump(exclude_unset=True, exclude={"expires_at"})
        if "expires_at" in self.model_fields_set:
            changes["expires_ms"] = _milliseconds(self.expires_at)
        key_changes: keys.KeyChanges = changes
        return key_changes


def _milliseconds(expires_at: str | None) -> int | None:
    return None if expires_at is None else parse_expires_at(expires_at)
