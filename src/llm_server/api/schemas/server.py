"""The request and response schemas of the server itself: metrics, usage, catalogue, engines and health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llm_server import __version__
from llm_server.api.schemas.base import RequestSchema, ResponseSchema
from llm_server.api.schemas.keys import KeyLimitsView
from llm_server.orchestration.domain.engines.catalog import Source, StructuredOutput
from llm_server.orchestration.domain.engines.state import SwitchName

EngineStatus = Literal["online", "cooling", "disabled", "locked", "offline"]
_STATUSES = (
    "`online`; `cooling`: resting after failures; `disabled`: switched off; `locked`: must not be used; "
    "`offline`: it cannot be reached or has no credentials."
)
Purpose = Annotated[
    str, Field(description="The purpose, in one sentence.", examples=["Short answers and conversation."])
]
TierName = Literal["fast", "strong"]


class MetricsView(ResponseSchema):
    """Nine figures about the whole server since its database was created."""

    server_status: Literal["online", "offline"] = Field(
        description="`online` when at least one engine is `online`, else `offline`.", examples=["online"]
    )
    llm_status: dict[str, EngineStatus] = Field(
        description=f"The status of each engine by its name. {_STATUSES}", examples=[{"claude": "online"}]
    )
    tokens_per_second: float | None = Field(
        description="Output tokens per second of engine time, over all answered calls; null before the first call.",
        examples=[62.5],
    )
    average_response_time: float | None = Field(
        description="Mean duration of an answered engine call, in seconds; null before the first call.", examples=[1.84]
    )
    total_requests: int = Field(description="Tasks that were accepted.", examples=[1200])
    active_tasks: int = Field(description="Tasks that are Processing or Planned.", examples=[3])
    queue_length: int = Field(description="Tasks that are Queued.", examples=[7])
    success_rate: float | None = Field(
        description="The Completed share of all Completed and Failed tasks, in percent (0 to 100); null before the "
        "first. A task that a demonstration engine answered counts as Completed.",
        examples=[99.2],
    )
    api_costs: float | None = Field(
        description="Estimated USD of all calls to engines with `source` `api`, the exact sum of the tasks' receipts; "
        "null while every such call has an unknown price.",
        examples=[1.234567],
    )


class UsageView(ResponseSchema):
    """The amount that the caller's tenant spent today (UTC), and the limits of the caller's key and their use."""

    tenant: str = Field(description="The caller's tenant.", examples=["acme"])
    day: str = Field(description="Today in UTC.", examples=["2026-11-29"], json_schema_extra={"format": "date"})
    spent_microusd: int = Field(
        description="The cost of today's engine calls for the tenant's tasks, in millionths of a USD.",
        examples=[250000],
    )
    tasks_in_flight: int | None = Field(
        description="The key's tasks that are not final; null when the key has no limit for them. On a server without "
        "API keys: all tasks that are not final.",
        examples=[2],
    )
    limits: KeyLimitsView = Field(description="The limits of the key.")
    charged_microusd: int | None = Field(
        description="The used part of the key's `usd_per_day`, in millionths of a USD; null without that limit.",
        examples=[260000],
    )
    unsettled_microusd: int | None = Field(
        description="The part of `charged_microusd` that is reserved for calls which have not ended, or whose cost is "
        "unknown: they timed out, broke off, were cancelled, did not report their tokens, or their worker died.",
        examples=[10000],
    )


class ProfileView(ResponseSchema):
    """A profile: a field of work with its roles."""

    purpose: Purpose
    default_role: str = Field(
        description="The role that the server uses when the analysis is not sure.", examples=["Chat-Agent"]
    )
    roles: list[str] = Field(description="The roles of the profile.", examples=[["Chat-Agent", "Writing-Agent"]])


class RoleView(ResponseSchema):
    """A role: the instructions with which an engine carries out a task."""

    purpose: Purpose
    profiles: list[str] = Field(description="The profiles that have the role.", examples=[["General"]])
    tier: TierName = Field(
        description="The tier of the engines that the server prefers for this role.", examples=["fast"]
    )
    examples: list[str] = Field(
        description="Prompts that the role is for, from the configuration; empty if it names none.",
        examples=[["Can my landlord keep the deposit?"]],
    )


class EngineView(ResponseSchema):
    """The configuration and the switches of an engine, without its credentials."""

    kind: str = Field(
        description="The kind of the engine, which decides how the server calls it.", examples=["anthropic"]
    )
    model: str = Field(description="The engine's model.", examples=["claude-haiku-5-5"])
    source: Source = Field(
        description="`api`: a hosted service; calls cost money. `local`: an engine on the operator's own machines; "
        "calls are free of charge. Tasks and keys can be limited to sources (`limits.sources`).",
        examples=["api"],
    )
    tier: TierName | None = Field(
        description="The tier the engine is configured for; null when it has none.", examples=["strong"]
    )
    toggle: bool = Field(description="Whether the engine is switched on.", examples=[True])
    locked: bool = Field(
        description="Whether the engine must not be used, even if it is switched on.", examples=[False]
    )
    max_concurrency: int = Field(description="The most calls that one process makes at the same time.", examples=[64])
    tools: bool = Field(
        description="Whether the engine takes function tools, as configured or by default.", examples=[True]
    )
    vision: bool = Field(description="Whether the engine takes images, as configured or by default.", examples=[True])
    structured_output: StructuredOutput = Field(
        description="What the engine's API is asked for if a result must follow a schema: `json_schema`, the schema "
        "itself; `json_object`, any JSON object, with the schema in the prompt; `none`, with the schema in the prompt "
        "alone. As configured; in `GET /api/v1/engines`, as this process of the server has found out since it started. "
        "The server checks the result in any case.",
        examples=["json_schema"],
    )
    demonstration: bool = Field(
        description="Whether the engine answers only because no real engine is configured or found.", examples=[False]
    )
    note: str | None = Field(
        description="What to know about the answers of a demonstration engine, and how to get a better one; null for "
        "other engines.",
        examples=[None],
    )


class EngineNowView(EngineView):
    """An engine with its current status."""

    status: EngineStatus = Field(
        description=f"The same status as in `llm_status` of `GET /api/v1/metrics`. {_STATUSES}", examples=["online"]
    )


class EnginesView(ResponseSchema):
    """The engines in use. The demonstration and embedded engines are left out while another engine is there."""

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
    """Changes to an engine's switches. A field that is left out does not change; null restores the configured value."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    toggle: bool | None = Field(default=None, description="Whether the engine is switched on.", examples=[True])
    locked: bool | None = Field(
        default=None, description="Whether the engine must not be used, even if it is switched on.", examples=[False]
    )

    def to_domain(self) -> dict[SwitchName, bool | None]:
        changes: dict[SwitchName, bool | None] = {"toggle": self.toggle, "locked": self.locked}
        return {name: value for name, value in changes.items() if name in self.model_fields_set}
