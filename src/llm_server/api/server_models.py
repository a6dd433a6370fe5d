"""What goes out over HTTP about the server: figures, keys, catalogue, engines, errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from llm_server.api.strict import Strict

EngineStatus = Literal["online", "cooling", "disabled", "locked", "offline"]


class MetricsView(Strict):
    """The nine figures."""

    server_status: Literal["online", "offline"]
    llm_status: dict[str, EngineStatus]
    tokens_per_second: float | None
    average_response_time: float | None
    total_requests: int
    active_tasks: int
    queue_length: int
    success_rate: float | None
    api_costs: float | None


class KeyLimitsView(Strict):
    """What a key allows; null is no limit. A minute and a day are those of the UTC clock."""

    requests_per_minute: int | None
    tasks_in_flight: int | None
    usd_per_day: float | None


class UsageView(Strict):
    """What the caller's tenant spent today (UTC), and what the caller's key allows and has used.

    `tasks_in_flight` and `charged_microusd` are the key's, and null where it does not limit them: then nobody counts.
    `unsettled_microusd`, a part of the charge, was set aside for calls that have not ended, and for those whose cost
    nobody knows: they timed out, broke off, were cancelled or did not report their tokens, or their worker died.
    """

    tenant: str
    day: str
    spent_microusd: int
    tasks_in_flight: int | None
    limits: KeyLimitsView
    charged_microusd: int | None
    unsettled_microusd: int | None


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


class ProfileView(Strict):
    """A field of work."""

    purpose: str
    default_role: str
    roles: list[str]


class RoleView(Strict):
    """Who can do a task."""

    purpose: str
    profiles: list[str]
    tier: Literal["fast", "strong"]


class EngineView(Strict):
    """An engine as it is switched, else as configured, without its credentials."""

    kind: str
    model: str
    source: Literal["local", "api"]
    tier: Literal["fast", "strong"] | None
    toggle: bool
    locked: bool
    max_concurrency: int


class EngineNowView(EngineView):
    """An engine, and its status as `llm_status` of the metrics names it."""

    status: EngineStatus


class EnginesView(Strict):
    """Every configured engine."""

    engines: dict[str, EngineNowView]


class CatalogView(Strict):
    """What is configured."""

    profiles: dict[str, ProfileView]
    roles: dict[str, RoleView]
    engines: dict[str, EngineView]


class HealthView(Strict):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Fault(BaseModel):
    """One thing that is wrong with the input."""

    pointer: str = Field(description="A JSON pointer into the body, or a slash and a parameter's name.")
    detail: str


class Problem(BaseModel):
    """Any error (RFC 9457)."""

    detail: str = Field(description="What happened, in one sentence.")
    errors: list[Fault] = Field(default=[], description="Every fault, where the input has some.")
