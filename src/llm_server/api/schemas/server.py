"""What comes in and goes out over HTTP about the server: figures, catalogue, engines, health."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from llm_server.api.schemas.base import Strict
from llm_server.api.schemas.keys import KeyLimitsView
from llm_server.orchestration.domain.engine_state import SwitchName

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
    success_rate: float | None = Field(
        description="Percentage of Completed tasks among the Completed and Failed ones; demonstrations are Completed."
    )
    api_costs: float | None


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
    """The engines that serve; the embedded engine is left out while another engine is configured."""

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


class EngineChange(Strict):
    """What is to change of an engine: true or false, or null for what the configuration says; left out, it stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    toggle: bool | None = Field(default=None, description="Whether the engine is switched on.")
    locked: bool | None = Field(default=None, description="Whether it is kept from being used, switched on or not.")

    def to_domain(self) -> dict[SwitchName, bool | None]:
        changes: dict[SwitchName, bool | None] = {"toggle": self.toggle, "locked": self.locked}
        return {name: value for name, value in changes.items() if name in self.model_fields_set}
