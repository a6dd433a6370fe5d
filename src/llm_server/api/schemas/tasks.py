"""The response schemas of tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llm_server.api.schemas.base import ResponseSchema, Time
from llm_server.api.schemas.work import AttemptView, PlanView, ReceiptView
from llm_server.orchestration.domain.engines.catalog import Source
from llm_server.orchestration.domain.status import Mode, Priority, Status
from llm_server.orchestration.events.history import EVENT_NAMES

TaskId = Annotated[
    str,
    Field(
        json_schema_extra={"format": "uuid"},
        description="The id of the task, a UUID.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
    ),
]
RoleName = Annotated[str, Field(description="The role that carries out the task.", examples=["Writing-Agent"])]
ProfileName = Annotated[str, Field(description="The field of work the role was chosen from.", examples=["General"])]
Share = Annotated[float, Field(ge=0, le=1)]


class TaskView(ResponseSchema):
    """The state of a task in four fields."""

    task_id: TaskId | None = Field(description="The id of the task, a UUID.")
    status: Status = Field(description="The state that the task has reached.")
    result: str | None = Field(
        description="The answer of a Completed task; null in every other status.", examples=["One by one they wait"]
    )
    error: str | None = Field(
        description="Why the task Failed; null in every other status.", examples=["The deadline of 120 s has passed."]
    )


class TaskSummary(ResponseSchema):
    """A task in a list: its state without prompt, result and plan."""

    task_id: TaskId
    status: Status = Field(description="The state that the task has reached.")
    error: str | None = Field(
        description="Why the task Failed; null in every other status.", examples=["The deadline of 120 s has passed."]
    )
    mode: Mode = Field(description="How the task is carried out.")
    role: RoleName
    profile: ProfileName
    engine: str | None = Field(
        description="The engine that was called last when the task ended; null before that.", examples=["claude"]
    )
    waiting_for: str | None = Field(
        description="What a Queued task waits for while no engine is available: the engines it may use, or the reason; "
        "null when it does not wait.",
        examples=["claude, laptop"],
    )
    waiting_since: Time | None = Field(description="Since when the task waits; null when it does not.")
    receipt: ReceiptView = Field(description="What the task's engine calls used and cost so far.")
    created_at: Time = Field(description="When the task was accepted.")
    updated_at: Time = Field(description="When the state of the task last changed.")
    finished_at: Time | None = Field(description="When the task ended; null until then.")
    awaiting_approval: bool = Field(
        description="Whether the plan waits for the caller to approve or reject it.", examples=[False]
    )
    metadata: dict[str, str] = Field(
        description="The names and texts the caller attached to the task. On AWS, a list shows none for "
        "tasks that version 0.1 stored.",
        examples=[{"ticket": "4711"}],
    )


class EventView(ResponseSchema):
    """One event in the history of a task."""

    event: str = Field(
        description=f"What happened: one of {', '.join(EVENT_NAMES)}. Later versions may add events.",
        examples=["completed"],
    )
    at: Time = Field(description="When it happened.")
    actor: Literal["caller", "server", "worker", "sweep"] = Field(
        description="What caused the event. `sweep` is the server's regular check of open tasks.", examples=["worker"]
    )
    detail: str = Field(description="More about the event; may be empty.", examples=["Chat mode, Writing-Agent"])


class ToolCallView(ResponseSchema):
    """A function call that an answer asks for."""

    call_id: str = Field(description="Identifies the call within its task.", examples=["call_1"])
    name: str = Field(description="The function, one of the task's `tools`.", examples=["get_weather"])
    arguments: str = Field(
        description="The arguments as the engine wrote them: JSON text as a rule, which need not follow the schema.",
        examples=['{"city": "Paris"}'],
    )


class TaskLimits(ResponseSchema):
    """The limits that the task was created with or approved with, and the sources its keys allow. Null: no limit."""

    max_cost_usd: float | None = Field(
        description="The most the task may cost, in USD: the lower of the limits of its creation and its approval.",
        examples=[0.05],
    )
    deadline_s: float | None = Field(
        description="Seconds from acceptance or the last retry after which the task fails.", examples=[120]
    )
    max_output_tokens: int | None = Field(
        description="The most tokens each engine call may answer with; plans and verdicts get at least 1,024.",
        examples=[1000],
    )
    sources: list[Source] | None = Field(
        description="The sources of the engines that may be called for the task: those of its own list that the keys "
        "of its callers allow.",
        examples=[["local"]],
    )


class CostsView(ResponseSchema):
    """The median and the 90th percentile of costs, in millionths of a USD."""

    p50: int = Field(description="Half of the tasks cost at most this.", examples=[120])
    p90: int = Field(description="Nine tenths of the tasks cost at most this.", examples=[480])


class TimesView(ResponseSchema):
    """The median and the 90th percentile of times, in seconds."""

    p50: float = Field(description="Half of the tasks took at most this.", examples=[2.5])
    p90: float = Field(description="Nine tenths of the tasks took at most this.", examples=[9.25])


class QuoteView(ResponseSchema):
    """What the task, or the rest of a task whose plan waits for approval, may cost and how long it may take."""

    ceiling_microusd: int | None = Field(
        description="The most that can be charged, in millionths of a USD, whatever fails or is repeated; null when "
        "nothing bounds it.",
        examples=[50000],
    )
    ceiling_reason: str = Field(
        description="What bounds the cost, or why nothing does.", examples=["The max_cost_usd of 0.05 bounds it."]
    )
    worst_case_microusd: int | None = Field(
        description="What all engine calls reserve together, in millionths of a USD, if the task is claimed once: with "
        "failover and escalation. A `max_cost_usd` of at least this shortens no answer. Null in Plan mode, for a task "
        "that follows others, when an engine would be asked for mode and role, when no engine is available and when a "
        "price is unknown.",
        examples=[2310],
    )
    expected_microusd: CostsView | None = Field(
        description="What your tenant's newest Completed tasks of the same mode, role and engine (in Plan mode: of any "
        "engine) cost, in millionths of a USD; null if fewer than 20 tell it. Of a plan that waits for approval: less "
        "what the task has cost so far."
    )
    expected_seconds: TimesView | None = Field(
        description="How long these tasks took from acceptance to the end, in seconds, without those that were "
        "approved or retried; null if fewer than 20 tell it. Of a plan that waits: less what the plan took."
    )
    sample: int = Field(
        description="How many tasks the expectations come from; at most 200 tasks are looked at.", examples=[57]
    )


class TaskDetail(TaskSummary, TaskView):
    """A task with its result, plan, engine calls and history."""

    task_id: TaskId
    confidence: Share = Field(
        description="How likely the role and the mode suit the prompt that the analysis chose, from 0 to 1; 1 when the "
        "caller's choice decides both. A triage does not change it.",
        examples=[0.95],
    )
    complexity: Share = Field(
        description="How much a strong engine would improve the answer, from 0 to 1, as the analysis or triage says.",
        examples=[0.08],
    )
    reasons: list[str] = Field(
        description="Why this role and this mode were chosen, by the analysis or in a triage.",
        examples=[["about poem (+3.5 text over code)"]],
    )
    plan: PlanView | None = Field(description="The plan of a task in Plan mode; null until it is made.")
    quote: QuoteView | None = Field(
        description="What the steps and the final answer of a plan that waits for approval may cost and how long they "
        "may take; null for every other task."
    )
    demonstration: bool = Field(
        description="Whether the demonstration engine or the embedded engine gave the result, because no real "
        "engine was configured or found.",
        examples=[False],
    )
    attempts: list[AttemptView] = Field(description="Every engine call on the receipt, oldest first.")
    events: list[EventView] = Field(
        description="The history, oldest first. Of claims, releases, waits, approvals and retries, the server keeps "
        "the last 6 in total."
    )
    limits: TaskLimits = Field(description="The limits of the task.")
    fault: str | None = Field(
        description="The fault that the answer gate found in the result, such as a wrong sum or code that does not "
        "parse. No other engine could be asked, or its answer has a fault, too. Null when no fault was found, and "
        "while there is no result.",
        examples=["wrong arithmetic: 2 + 3 = 6"],
    )
    priority: Priority = Field(
        description="Which of the tenant's waiting tasks come first: `interactive` before `batch`.",
        examples=["interactive"],
    )
    stream: bool = Field(
        description="Whether the events of the task have the text of its engine calls.", examples=[False]
    )
    previous_task_id: str | None = Field(
        description="The task that this one follows; null when it follows none.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
    )
    conversation_id: str | None = Field(
        description="The conversation of the task; null outside a conversation.",
        examples=["01a205c3-cdb6-7178-90a4-9b068c5161a4"],
    )
    tool_calls: list[ToolCallView] = Field(
        description="The function calls that the answer of a Completed task asks you to make; [] if it asks for none. "
        "Send their results as `tool_results` of the next task."
    )
    turns_before: int = Field(description="How many turns come before this task.", examples=[3])
    turns_dropped: int = Field(
        description="How many of them an engine was not told, at most: the oldest ones, if they do not fit into the "
        "context of the engine, and those that were deleted or have expired.",
        examples=[0],
    )


class TaskPage(ResponseSchema):
    """One page of the caller's tasks. It can have fewer than `page_size` tasks, or none, before the last page."""

    tasks: list[TaskSummary] = Field(description="The tasks of this page, newest first.")
    next_page_token: str = Field(
        description='The `page_token` of the next page; "" on the last page, and only there.',
        examples=["eyJhZnRlciI6MTIzfQ"],
    )


class TriageQuoteView(ResponseSchema):
    """The call that would ask a fast engine for the mode, the role and the complexity of the task."""

    engine: str = Field(description="The engine that would be asked.", examples=["mini"])
    expected_microusd: int | None = Field(
        description="About what the call costs, in millionths of a USD; null when the price of the model is not known.",
        examples=[92],
    )
    ceiling_microusd: int | None = Field(
        description="The most that the call can cost, in millionths of a USD; null when the price of the model is not "
        "known.",
        examples=[251],
    )


class DecisionView(ResponseSchema):
    """How the server would carry out a task."""

    mode: Mode = Field(description="How the task would be carried out.")
    role: RoleName
    profile: ProfileName
    engine: str | None = Field(
        description="The engine that would be called first for the answer or the plan; null when none is available "
        "now.",
        examples=["claude"],
    )
    sources: list[Source] | None = Field(
        description="The sources of the engines that could be called: those of `limits.sources` that the caller's key "
        "allows. Null: no limit.",
        examples=[["local"]],
    )
    triage: TriageQuoteView | None = Field(
        description="The call that would be made first, because the analysis is unsure: its answer would take the "
        "place of the mode, the role, the profile and the complexity above. Null when no engine would be asked."
    )
    quote: QuoteView = Field(description="What the task may cost and how long it may take.")
    complexity: Share = Field(
        description="How much a strong engine would improve the answer, from 0 to 1.", examples=[0.08]
    )
    multi_step: Share = Field(description="How likely the prompt asks for several steps, from 0 to 1.", examples=[0.12])
    confidence: Share = Field(
        description="How likely role and mode suit the prompt, from 0 to 1; 1 when the caller's choice decides both.",
        examples=[0.95],
    )
    reasons: list[str] = Field(
        description="Why the analysis chose this role and this mode.", examples=[["about poem (+3.5 text over code)"]]
    )
    alternatives: list[tuple[str, float]] = Field(
        description="The next best roles, best first, each with its likelihood from 0 to 1.",
        examples=[[["Chat-Agent", 0.03]]],
    )
