"""What comes in and goes out over HTTP about API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from llm_server.api.schemas.base import RequestSchema, ResponseSchema, Time, whole
from llm_server.orchestration.domain import api_key as keys

PRINTABLE = (
    r"^[^\u0000-\u001f\u007f-\u00a0\u00ad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    r"\ue000-\uf8ff\ufeff\ufff9-\ufffb\ufffe\uffff]*$"
)
"""Every text for which `str.isprintable` is true, and some others, in ECMA-262 without the flag `u`.

It leaves out the control, format and private-use characters and the spaces of the Basic Multilingual Plane.
"""


class KeyLimitsView(ResponseSchema):
    """What a key allows. Null: no limit. Minutes and days are those of UTC."""

    requests_per_minute: int | None = Field(description="Requests in one minute.", examples=[60])
    tasks_in_flight: int | None = Field(description="Tasks that are not final at the same time.", examples=[10])
    usd_per_day: float | None = Field(description="USD for engine calls on one day.", examples=[5.0])


class KeyView(ResponseSchema):
    """A key without its secret."""

    key_id: str = Field(description="The id of the key, the middle part of its token.", examples=["3f9a1c07b2d4"])
    tenant: str = Field(description="The tenant the key belongs to.", examples=["acme"])
    scopes: list[str] = Field(description="What the key may be used for.", examples=[["tasks", "metrics"]])
    name: str = Field(description="A name for people.", examples=["nightly reports"])
    limits: KeyLimitsView = Field(description="What the key allows.")
    created_at: Time = Field(description="When the key was created.")
    revoked_at: Time | None = Field(description="When the key was revoked; null while it is valid.")


class CreatedKey(KeyView):
    """A new key with its token, which is shown only once."""

    token: str = Field(
        description="The secret to send as `Authorization: Bearer <token>`.",
        examples=["llms_3f9a1c07b2d4_" + "0123456789abcdef" * 4],
    )


class KeyList(ResponseSchema):
    """The API keys of the server."""

    keys: list[KeyView] = Field(description="Every key of every tenant, oldest first, revoked ones included.")


class NewKeyLimits(RequestSchema):
    """Limits of a new key. A limit that is left out or null does not apply."""

    requests_per_minute: Annotated[int, Field(ge=1, le=keys.MAX_COUNT), BeforeValidator(whole)] | None = Field(
        default=None, description="Requests in one minute of UTC.", examples=[60]
    )
    tasks_in_flight: Annotated[int, Field(ge=1, le=keys.MAX_COUNT), BeforeValidator(whole)] | None = Field(
        default=None, description="Tasks that are not final at the same time.", examples=[10]
    )
    usd_per_day: float | None = Field(
        default=None,
        ge=keys.MIN_USD,
        le=keys.MAX_USD,
        description="USD for engine calls on one day of UTC.",
        examples=[5.0],
    )

    def to_domain(self) -> keys.KeyLimits:
        return keys.KeyLimits.of(**self.model_dump())


class NewKey(RequestSchema):
    """Whose the key is and what it is for."""

    # the patterns are for the description: the keyring holds to them, and says better what is wrong
    tenant: str = Field(
        json_schema_extra={"pattern": f"^{keys.TENANT_PATTERN}$"},
        description="The tenant whose tasks the key reads and creates.",
        examples=["acme"],
    )
    scopes: list[Literal["tasks", "metrics", "admin"]] = Field(
        min_length=1,
        max_length=3,
        description="What the key may be used for. `tasks`: tasks, usage and catalogue. `metrics`: the figures of the "
        "whole server. `admin`: engines and keys.",
        examples=[["tasks", "metrics"]],
    )
    name: str = Field(
        default="",
        json_schema_extra={"maxLength": keys.MAX_NAME, "pattern": PRINTABLE},
        description="A name for people, shown in lists.",
        examples=["nightly reports"],
    )
    limits: NewKeyLimits = Field(
        default_factory=NewKeyLimits, description="What the key allows.", examples=[{"requests_per_minute": 60}]
    )
