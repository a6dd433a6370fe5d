"""The response schemas of the work on a task: its plan, its engine calls and their receipt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_server.api.schemas.base import ResponseSchema, Time
from llm_server.orchestration.domain.engines.catalog import Source


class ReceiptView(ResponseSchema):
    """The tokens, the time and the cost of all engine calls of a task."""

    calls: int = Field(description="Engine calls that were answered.", examples=[1])
    failed_calls: int = Field(description="Engine calls that failed.", examples=[0])
    api_calls: int = Field(description="Answered calls of engines with `source` `api`.", examples=[1])
    unpriced_calls: int = Field(
        description="Calls of models without a known price. They are not part of `cost_microusd`.", examples=[0]
    )
    tokens_in: int = Field(
        description="All tokens sent to engines in answered calls, those that an engine read from its prompt cache or "
        "wrote to it included.",
        examples=[412],
    )
    tokens_out: int = Field(
        description="Tokens that engines answered with in answered calls, reasoning included.", examples=[120]
    )
    duration_ms: int = Field(description="Time spent in answered calls, in milliseconds.", examples=[1840])
    cost_microusd: int = Field(
        description="The cost of the calls, in millionths of a USD, estimated from a price list.", examples=[1012]
    )


class AttemptView(ResponseSchema):
    """One engine call of a task."""

    engine: str = Field(description="The engine that was called.", examples=["claude"])
    model: str = Field(description="The engine's model.", examples=["claude-haiku-5-5"])
    source: Source = Field(
        description="`api`: a hosted service; calls cost money. `local`: an engine on the operator's own machines; "
        "calls are free of charge.",
        examples=["api"],
    )
    tier: Literal["fast", "strong"] | None = Field(
        description="The tier the engine is configured for; null when it has none.", examples=["strong"]
    )
    why: str = Field(
        description="Why the server chose this engine, in a few words.", examples=["strong tier, cheapest"]
    )
    purpose: str = Field(
        description="The purpose of the call: `triage`, `plan`, `answer`, `synthesis`, or a purpose and a step's id, "
        "such as `verdict s1`.",
        examples=["answer"],
    )
    started_at: Time = Field(description="When the call began.")
    duration_ms: int = Field(description="How long the call took, in milliseconds.", examples=[1840])
    tokens_in: int = Field(
        description="All tokens sent to the engine, those that it read from its prompt cache or wrote to it included. "
        "For a call that was cut off (a time-out, a broken connection, a cancelled task) this is an estimate.",
        examples=[412],
    )
    cache_read_tokens: int = Field(
        description="The part of `tokens_in` that the engine read from its prompt cache.", examples=[0]
    )
    cache_write_tokens: int = Field(
        description="The part of `tokens_in` that the engine wrote to its prompt cache.", examples=[0]
    )
    cache_write_1h_tokens: int = Field(
        description="The part of `cache_write_tokens` that the engine keeps for an hour, at a price of its own.",
        examples=[0],
    )
    tokens_out: int = Field(
        description="Tokens the engine answered with, reasoning included; 0 when it is not known how many it produced.",
        examples=[120],
    )
    reasoning_tokens: int = Field(
        description="The part of `tokens_out` that the model used for its reasoning. It is billed as output.",
        examples=[0],
    )
    usage_estimated: bool = Field(
        description="Whether token counts are estimates because the engine did not report them.", examples=[False]
    )
    usage_implausible: bool = Field(
        description="Whether the engine reported token counts that cannot be true, such as more than the call's limit. "
        "Such counts are replaced by the most that the call could use.",
        examples=[False],
    )
    truncated: bool = Field(description="Whether a token limit cut the answer short.", examples=[False])
    fault: str | None = Field(
        description="The fault that the answer gate found in the answer; null when it found none. After the fault of a "
        "cheap engine the server calls a strong one, if the task may use one.",
        examples=["cut off by the output limit"],
    )
    cost_microusd: int | None = Field(
        description="The cost of the call, in millionths of a USD; null when the price of the model is not known.",
        examples=[1012],
    )
    withheld_microusd: int = Field(
        description="What the engine may charge beyond `cost_microusd`, in millionths of a USD, because it did not "
        "report that, or the call is lost. It stays reserved from the task's `max_cost_usd`.",
        examples=[0],
    )
    turns_dropped: int = Field(
        description="How many earlier turns of the conversation the engine was not told, because they do not fit into "
        "its context, or are not stored any more.",
        examples=[0],
    )
    error: str | None = Field(
        description="Why the call failed; null when it was answered.", examples=["The engine did not answer in time."]
    )
    failure: str | None = Field(
        description="The kind of failure as a word: `busy`, `timeout`, `unreachable`, `credentials`, `garbage`, "
        "`refused`, `empty`, `cancelled` or `lost`; later versions may add others. `lost`: the worker died before it "
        "stored the outcome of the call, which the engine may not even have received. Null when the call was answered, "
        "and in tasks of version 0.1.",
        examples=["timeout"],
    )


class ReviewView(ResponseSchema):
    """The review of a step's result."""

    verdict: Literal["pass", "fail", "not judged"] = Field(
        description="Whether the result passed the review; `not judged` when the review ended early.", examples=["pass"]
    )
    findings: list[str] = Field(
        description="The faults that the review found and that were not repaired.",
        examples=[["The second test is missing."]],
    )
    reason: str | None = Field(
        description="Why the review ended early; null when it was completed.",
        examples=["The engine did not answer in time."],
    )


class StepView(ResponseSchema):
    """One step of a plan."""

    id: str = Field(description="The name of the step in its plan.", examples=["s2"])
    role: str = Field(description="The role that carries out the step.", examples=["Fast-Coder-Agent"])
    instruction: str = Field(description="What the step has to do.", examples=["Implement the cache."])
    depends_on: list[str] = Field(description="The steps that must be Completed before this one.", examples=[["s1"]])
    status: Literal["Waiting", "Running", "Completed", "Failed", "Skipped"] = Field(
        description="The state of the step. Running: the steps it depends on are Completed and a worker has the task. "
        "Skipped: a step it depends on was Failed or Skipped, or the task ended first.",
        examples=["Completed"],
    )
    result: str | None = Field(description="The result of a Completed step, else null.", examples=["class Cache: ..."])
    error: str | None = Field(
        description="Why the step Failed, else null.", examples=["The engine did not answer in time."]
    )
    cost_microusd: int = Field(
        description="The cost of all calls for the step, in millionths of a USD; unpriced calls count as 0.",
        examples=[1012],
    )
    review: ReviewView | None = Field(
        description="The review of the result so far; null before the first verdict and for a step without a review."
    )
    fault: str | None = Field(
        description="The fault that the answer gate found in the step's result, and that no other engine repaired. "
        "Null when no fault was found, and while there is no result.",
        examples=["Python code that does not parse"],
    )


class PlanView(ResponseSchema):
    """The plan of a task in Plan mode."""

    goal: str = Field(description="What the steps achieve together.", examples=["A tested, documented cache."])
    hash: str = Field(
        description="The SHA-256 of the plan; send it as `plan_hash` to approve or reject the plan.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    steps: list[StepView] = Field(description="1 to 12 steps.")
