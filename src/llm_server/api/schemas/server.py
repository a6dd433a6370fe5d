"""What comes in and goes out over HTTP about the server: figures, catalogue, engines, health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llm_server import __version__
from llm_server.api.schemas.base import RequestSchema, ResponseSchema
from llm_server.api.schemas.keys import KeyLimitsView
from llm_server.orchestration.domain.engine_state import SwitchName

EngineStatus = Literal["online", "cooling", "disabled", "locked", "offline"]
_STATUSES = (
    "`online`; `cooling`: resting after failures; `disabled`: switched off; `locked`: must not be used; "
    "`offline`: it cannot be reached or has no credentials."
)
Purpose = Annotated[str, Field(description="What it is for.", examples=["Short answers and conversation."])]
TierName = Literal["fast", "strong"]


class MetricsView(ResponseSchema):
    """Nine figures about the whole server since its database was made."""

    server_status: Literal["online", "offline"] = Field(
        description="`online` when at least one engine is `online`, else `offline`.", examples=["online"]
    )
    llm_status: dict[str, EngineStatus] = Field(
        description=f"The status of each engine by its name. {_STATUSES}", examples=[{"claude": "online"}]
    )
    tokens_per_second: float | None = Field(
        description="Output tokens per second of engine time, over all answered calls; null before the first.",
        examples=[62.5],
    )
    average_response_time: float | None = Field(
        description="Mean seconds of an answered engine call; null before the first.", examples=[1.84]
    )
    total_requests: int = Field(description="Tasks that were accepted.", examples=[1200])
    active_tasks: int = Field(description="Tasks that are Processing or Planned.", examples=[3])
    queue_length: int = Field(description="Tasks that are Queued.", examples=[7])
    success_rate: float | None = Field(
        description="Percentage (0 to 100) of Completed among all Completed and Failed tasks; null before the first. "
        "A task that the embedded engine answered counts as Completed, although its answer is only a demonstration.",
        examples=[99.2],
    )
    api_costs: float | None = Field(
        description="Estimated USD of all calls to engines with `source` `api`, the exact sum of the tasks' receipts; "
        "null while every such call has an unknown price.",
        examples=[1.234567],
    )


class UsageView(ResponseSchema):
    """What the caller's tenant spent today (UTC), and what the caller's key allows and has used."""

    tenant: str = Field(description="The caller's tenant.", examples=["acme"])
    day: str = Field(description="Today in UTC.", examples=["2026-11-29"], json_schema_extra={"format": "date"})
    spent_microusd: int = Field(
        description="What the engine calls of the tenant's tasks cost today, in millionths of a USD.", examples=[250000]
    )
    tasks_in_flight: int | None = Field(
        description="The key's tasks that are not final; null when the key does not limit them. Without API keys: all "
        "tasks that are not final.",
        examples=[2],
    )
    limits: KeyLimitsView = Field(description="What the key allows.")
    charged_microusd: int | None = Field(
        description="How much of the key's `usd_per_day` is used, in millionths of a USD; null without that limit.",
        examples=[260000],
    )
    unsettled_microusd: int | None = Field(
        description="The part of `charged_microusd` that is reserved for calls which have not ended, or whose cost is "
        "unknown: they timed out, broke off, were cancelled, did not report their tokens, or their worker died.",
        examples=[10000],
    )


class ProfileView(ResponseSchema):
    """A field of work."""

    purpose: Purpose
    default_role: str = Field(
        description="The role the server takes when the analysis is not sure.", examples=["Chat-Agent"]
    )
    roles: list[str] = Field(description="The roles of the profile.", examples=[["Chat-Agent", "Writing-Agent"]])


class RoleView(ResponseSchema):
    """A role, which carries out tasks."""

    purpose: Purpose
    profiles: list[str] = Field(description="The profiles that have the role.", examples=[["General"]])
    tier: TierName = Field(description="The tier of engines the role asks for first.", examples=["fast"])


class EngineView(ResponseSchema):
    """An engine as it is configured and switched, without its credentials."""

    kind: str = Field(description="How the engine is reached.", examples=["anthropic"])
    model: str = Field(description="The engine's model.", examples=["claude-haiku-5-5"])
    source: Literal["local", "api"] = Field(
        description="`api`: calls are paid for. `local`: calls cost nothing.", examples=["api"]
    )
    tier: TierName | None = Field(
        description="The tier the engine is configured for; null when it has none.", examples=["strong"]
    )
    toggle: bool = Field(description="Whether the engine is switched on.", examples=[True])
    locked: bool = Field(description="Whether the engine must not be used, switched on or not.", examples=[False])
    max_concurrency: int = Field(description="The most calls that one process makes at the same time.", examples=[64])


class EngineNowView(EngineView):
    """An engine with its current status."""

    status: EngineStatus = Field(
        description=f"The same status as in `llm_status` of `GET /api/v1/metrics`. {_STATUSES}", examples=["online"]
    )


class EnginesView(ResponseSchema):
    """The engines that serve; the embedded engine is left out while another engine is configured."""

    engines: dict[str, EngineNowView] = Field(description="The engines by their names.")


class CatalogView(ResponseSchema):
    """The configured profiles, roles and engines."""

    profiles: dict[str, ProfileView] = Field(description="The profiles by their names.")
    roles: dict[str, RoleView] = Field(description="The roles by their names.")
    engines: dict[str, EngineView] = Field(description="The engines by their names.")


class HealthView(ResponseSchema):
    """The process answers."""

    status: Literal["ok"] = Field(description="Always `ok`.", examples=["ok"])
    version: str = Field(description="The version of the server.", examples=[__version__])


class EngineChange(RequestSchema):
    """The changes to an engine's switches. A field that is left out stays; null returns to the configured value."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    toggle: bool | None = Field(default=None, description="Whether the engine is switched on.", examples=[True])
    locked: bool | None = Field(
        default=None, description="Whether the engine must not be used, switched on or not.", examples=[False]
    )

    def to_domain(self) -> dict[SwitchName, bool | None]:
        changes: dict[SwitchName, bool | None] = {"toggle": self.toggle, "locked": self.locked}
        return {name: value for name, value in changes.items() if name in self.model_fields_set}
