"""What goes out over HTTP about tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_server.api.schemas.base import Strict
from llm_server.api.schemas.new_task import NewLimits
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.tasks.events import EVENT_NAMES


class TaskView(Strict):
    """The four fields every task answers with."""

    task_id: str | None
    status: Status
    result: str | None
    error: str | None


class ReceiptView(Strict):
    """The sum of the attempts; `unpriced_calls` are not in `cost_microusd`, because nobody knows their price."""

    calls: int
    failed_calls: int
    api_calls: int
    unpriced_calls: int
    tokens_in: int
    tokens_out: int
    duration_ms: int
    cost_microusd: int


class AttemptView(Strict):
    """One engine call; `why` says why this engine. `cost_microusd` is null when nobody knows the model's price.

    `fault` is what the answer gate found in an answer; the next attempt is then its escalation to a strong engine.
    `withheld_microusd` stays set aside of the task's money, because nobody knows what the engine charges for the call.
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
    withheld_microusd: int
    error: str | None


class ReviewView(Strict):
    """What a step's review came to: `findings` are those left open, `reason` why it could go no further."""

    verdict: Literal["pass", "fail", "not judged"]
    findings: list[str]
    reason: str | None


class StepView(Strict):
    """One step of a plan and how far it is; `review` is null where nobody judges. The cost counts every call.

    Running: what it depends on is done and a worker has the task. Skipped: a step it depends on failed or was skipped,
    or the task ended before it did.
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


class PlanView(Strict):
    """What the planner proposed."""

    goal: str
    hash: str
    steps: list[StepView]


class TaskSummary(Strict):
    """A task in a listing: its state, without prompt and result.

    `engine` is the engine that answered. `waiting_for` names the engines (or the reason) that a Queued task waits for.
    """

    task_id: str
    status: Status
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
    awaiting_approval: bool = Field(description="Whether the plan waits for approval.")
    metadata: dict[str, str] = Field(
        description="The caller's labels. On AWS, a listing shows none for tasks that version 0.1 stored."
    )


class EventView(Strict):
    """One thing that happened to a task; `detail` may be empty."""

    event: str = Field(description=f"Known are {', '.join(EVENT_NAMES)}; others can be added.", examples=["claimed"])
    at: str
    actor: Literal["caller", "server", "worker", "sweep"]
    detail: str


class TaskDetail(TaskSummary, TaskView):
    """Everything about a task; the four fields of `TaskView` come first."""

    task_id: str
    confidence: float
    complexity: float
    reasons: list[str]
    plan: PlanView | None
    demonstration: bool = Field(description="Whether the embedded engine gave the answer: no LLM was asked.")
    attempts: list[AttemptView]
    events: list[EventView] = Field(
        description="Oldest first. Of claims, releases, waits, approvals and retries the last 6 are known."
    )
    limits: NewLimits
    metadata: dict[str, str]


class TaskPage(Strict):
    """Some of the caller's tasks, newest first. `tasks` can be shorter than `page_size`, or empty, before the end."""

    tasks: list[TaskSummary]
    next_page_token: str = Field(description='Leads to the next page; "" on the last page, and only there.')


class DecisionView(Strict):
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
