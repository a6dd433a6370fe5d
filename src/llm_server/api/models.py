"""What comes in and goes out over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from llm_server.orchestration import intake
from llm_server.orchestration.key import KeyLimits
from llm_server.orchestration.metrics import MICROUSD_PER_USD
from llm_server.orchestration.ports import SwitchName
from llm_server.orchestration.snapshot import Limits
from llm_server.orchestration.task import Mode

METADATA_MOST = 16
NO_NUL = r"^[^\x00]*$"
NOT_BLANK_NO_NUL = r"^[^\x00]*[^\s\x00][^\x00]*$"
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]


def _whole(value: object) -> object:
    """JSON has one kind of number: 7.0 is the integer 7 (JSON Schema 2020-12, 4.2.3)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


OutputTokens = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class NewLimits(_Model):
    """What the caller allows the task."""

    max_cost_usd: float | None = Field(
        default=None, gt=0, le=10_000, description="No engine call is made that could go over it."
    )
    deadline_s: float | None = Field(
        default=None, ge=1, le=604_800, description="Seconds from acceptance; then the task fails."
    )
    max_output_tokens: OutputTokens | None = Field(default=None, description="For each engine call.")


class NewTask(_Model):
    """A prompt and, if the caller likes, how it is to be done."""

    prompt: str = Field(
        pattern=NO_NUL,
        json_schema_extra={"pattern": NOT_BLANK_NO_NUL},
        description="1 to 200,000 characters after trimming.",
        examples=["Summarise this text: ..."],
    )
    profile: str | None = Field(
        default=None, description="Default: General. The analysis chooses a role inside a given profile."
    )
    role: str | None = Field(default=None, description="Default: the analysis chooses; Chat-Agent when it is not sure.")
    mode: Literal["Chat", "Agent", "Plan"] | None = Field(default=None, description="Default: the analysis chooses.")
    engine: str | None = Field(default=None, description="A configured engine; it alone is asked.")
    limits: NewLimits = Field(default_factory=NewLimits)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict,
        max_length=METADATA_MOST,
        json_schema_extra={"additionalProperties": False},  # pydantic leaves keys free that break their pattern
    )
    plan_approval: bool = Field(default=False, description="Stop at the plan until it is approved or rejected.")

    def to_domain(self) -> intake.NewTask:
        limits = Limits(**self.limits.model_dump())
        mode = Mode(self.mode) if self.mode else None
        return intake.NewTask(**self.model_dump(exclude={"limits", "mode"}), limits=limits, mode=mode)


class PlanDecision(_Model):
    """The caller's word on a plan."""

    plan_hash: str = Field(description="`plan.hash` of the task, as it was read.")


class EngineChange(_Model):
    """What is to change of an engine: true or false, or null for what the configuration says; left out, it stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    toggle: bool | None = Field(default=None, description="Whether the engine is switched on.")
    locked: bool | None = Field(default=None, description="Whether it is kept from being used, switched on or not.")

    def to_domain(self) -> dict[SwitchName, bool | None]:
        changes: dict[SwitchName, bool | None] = {"toggle": self.toggle, "locked": self.locked}
        return {name: value for name, value in changes.items() if name in self.model_fields_set}


class TaskView(_Model):
    """The four fields every task answers with."""

    task_id: str | None
    status: Literal["Queued", "Processing", "Planned", "Completed", "Failed", "Cancelled"]
    result: str | None
    error: str | None


class ReceiptView(_Model):
    """The sum of the attempts; `unpriced_calls` are not in `cost_microusd`, because nobody knows their price."""

    calls: int
    failed_calls: int
    api_calls: int
    unpriced_calls: int
    tokens_in: int
    tokens_out: int
    duration_ms: int
    cost_microusd: int


class AttemptView(_Model):
    """One engine call; `why` says why this engine. `cost_microusd` is null when nobody knows the model's price.

    `fault` is what the answer gate found in an answer; the next attempt is then its escalation to a strong engine.
    """

    engine: str
    model: str
    source: Literal["local", "api"]
    tier: Literal["fast", "strong"] | None
    why: str
    purpose: str
    started_at: str
    duration_ms: int
    tokens_in: int
    tokens_out: int
    usage_estimated: bool
    truncated: bool
    fault: str | None
    cost_microusd: int | None
    error: str | None


class ReviewView(_Model):
    """What a step's review came to: `findings` are those left open, `reason` why it could go no further."""

    verdict: Literal["pass", "fail", "not judged"]
    findings: list[str]
    reason: str | None


class StepView(_Model):
    """One step of a plan and how far it is; `review` is null where nobody judges. The cost counts every call.

    Running: what it depends on is done and a worker has the task. Skipped: a step it depends on failed or was skipped,
    or the task ended before it began.
    """

    id: str
    role: str
    instruction: str
    depends_on: list[str]
    status: Literal["Waiting", "Running", "Completed", "Failed", "Skipped"]
    result: str | None
    error: str | None
    cost_microusd: int
    review: ReviewView | None


class PlanView(_Model):
    """What the planner proposed."""

    goal: str
    hash: str
    steps: list[StepView]


class TaskSummary(_Model):
    """A task in a listing: its state, without the texts."""

    task_id: str
    status: Literal["Queued", "Processing", "Planned", "Completed", "Failed", "Cancelled"]
    error: str | None
    mode: str
    role: str
    profile: str
    engine: str | None
    waiting_for: str | None
    waiting_since: str | None
    receipt: ReceiptView
    created_at: str
    updated_at: str
    finished_at: str | None


class EventView(_Model):
    """One thing that happened to a task; `detail` may be empty."""

    event: Literal[
        "created",
        "analysed",
        "claimed",
        "released",
        "waiting",
        "planned",
        "approved",
        "step finished",
        "step failed",
        "engine failed over",
        "retried",
        "completed",
        "failed",
        "cancelled",
    ]
    at: str
    actor: Literal["caller", "server", "worker", "sweep"]
    detail: str


class TaskDetail(_Model):
    """Everything about a task, the four fields first; `waiting_for`: the engines (or why) a Queued task waits for."""

    task_id: str
    status: Literal["Queued", "Processing", "Planned", "Completed", "Failed", "Cancelled"]
    result: str | None
    error: str | None
    mode: str
    role: str
    profile: str
    engine: str | None
    waiting_for: str | None
    waiting_since: str | None
    receipt: ReceiptView
    created_at: str
    updated_at: str
    finished_at: str | None
    confidence: float
    complexity: float
    reasons: list[str]
    plan: PlanView | None
    awaiting_approval: bool
    attempts: list[AttemptView]
    events: list[EventView] = Field(description="Oldest first; of claims, releases and waits the last 6 are known.")
    limits: NewLimits
    metadata: dict[str, str]


class TaskPage(_Model):
    """Some of the caller's tasks, newest first; `next_page_token` is "" at the end."""

    tasks: list[TaskSummary]
    next_page_token: str


class DecisionView(_Model):
    """How a prompt would be done."""

    mode: str
    role: str
    profile: str
    engine: str | None
    complexity: float
    multi_step: float
    confidence: float
    reasons: list[str]
    alternatives: list[tuple[str, float]]


EngineStatus = Literal["online", "cooling", "disabled", "locked", "offline"]


class MetricsView(_Model):
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


class KeyLimitsView(_Model):
    """What a key allows; null is no limit. A minute and a day are those of the UTC clock."""

    requests_per_minute: int | None
    tasks_in_flight: int | None
    usd_per_day: float | None


class UsageView(_Model):
    """What the caller's tenant spent today (UTC), and what the caller's key allows and has used.

    `tasks_in_flight` and `charged_microusd` are the key's, and null where it does not limit them: then nobody counts.
    `unsettled_microusd`, a part of the charge, was set aside for calls that have not ended or whose worker died.
    """

    tenant: str
    day: str
    spent_microusd: int
    tasks_in_flight: int | None
    limits: KeyLimitsView
    charged_microusd: int | None
    unsettled_microusd: int | None


class NewKeyLimits(_Model):
    """How much a key allows; left out: no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)] | None = None
    tasks_in_flight: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)] | None = None
    usd_per_day: float | None = Field(default=None, ge=0.000001, le=1_000_000, description="Of engine calls.")

    def to_domain(self) -> KeyLimits:
        usd = self.usd_per_day
        return KeyLimits(
            requests_per_minute=self.requests_per_minute,
            tasks_in_flight=self.tasks_in_flight,
            microusd_per_day=None if usd is None else round(usd * MICROUSD_PER_USD),
        )


class NewKey(_Model):
    """Whose the key is and what it is for."""

    tenant: str = Field(pattern=r"^[a-z0-9-]{1,40}$", examples=["acme"])
    scopes: list[Literal["tasks", "metrics", "admin"]] = Field(min_length=1, max_length=3)
    name: str = Field(
        default="", max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="For people; shown in listings."
    )
    limits: NewKeyLimits = Field(default_factory=NewKeyLimits)


class KeyView(_Model):
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


class KeyList(_Model):
    """Every key, oldest first; revoked ones are kept."""

    keys: list[KeyView]


class ProfileView(_Model):
    """A field of work."""

    purpose: str
    default_role: str
    roles: list[str]


class RoleView(_Model):
    """Who can do a task."""

    purpose: str
    profiles: list[str]
    tier: Literal["fast", "strong"]


class EngineView(_Model):
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


class EnginesView(_Model):
    """Every configured engine."""

    engines: dict[str, EngineNowView]


class CatalogView(_Model):
    """What is configured."""

    profiles: dict[str, ProfileView]
    roles: dict[str, RoleView]
    engines: dict[str, EngineView]


class HealthView(_Model):
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
