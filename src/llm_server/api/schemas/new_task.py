"""The request schemas of tasks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from llm_server.api.schemas.base import RequestSchema, SourceList, whole
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Priority, known_spelling
from llm_server.orchestration.tasks import new_task

MAX_METADATA = 16
NO_NUL = r"^[^\x00]*$"
NOT_BLANK_NO_NUL = r"^[^\x00]*[^\s\x00\x1c-\x1f\x85][^\x00]*$"
"""Matches texts without NUL that `str.strip` does not empty.

Python also strips \x1c to \x1f and \x85, which ECMA-262's `\\s` does not match.
"""

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]


EarlierId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

OutputTokens = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(whole)]


def _mode(value: object) -> object:
    """Return the known spelling of a mode. Return any other value unchanged, so that the validation refuses it."""
    return known_spelling(value, Mode) if isinstance(value, str) else value


ModeName = Annotated[Mode, Field(strict=False), BeforeValidator(_mode)]
"""A mode by its name, in upper or lower case; a strict field would accept only a member of the enum."""


def _priority(value: object) -> object:
    """Return the known spelling of a priority, as `_mode` does."""
    return known_spelling(value, Priority) if isinstance(value, str) else value


PriorityName = Annotated[Priority, Field(strict=False), BeforeValidator(_priority)]


def _describe_pairs(schema: dict[str, Any]) -> None:
    """Describe the pairs by `additionalProperties`: a client generated from `patternProperties` sends none of them."""
    (schema["additionalProperties"],) = schema.pop("patternProperties").values()
    schema["propertyNames"]["pattern"] = NO_NUL


class NewLimits(RequestSchema):
    """Limits of a new task. A limit that is left out or null does not apply."""

    max_cost_usd: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="The most the task may cost, in USD. The server makes no engine call that could exceed it.",
        examples=[0.05],
    )
    deadline_s: float | None = Field(
        default=None,
        ge=1,
        le=604_800,
        description="Seconds from acceptance after which the task fails if it is not final.",
        examples=[120],
    )
    max_output_tokens: OutputTokens | None = Field(
        default=None,
        description="The most tokens each engine call may answer with; plans and verdicts get at least 1,024.",
        examples=[1000],
    )
    sources: SourceList | None = Field(
        default=None,
        description="The sources of the engines that the server may call for the task. `local`: engines on the "
        "operator's own machines. `api`: hosted services. The limit holds for every call: plan, steps, reviews, "
        "escalations and retries. Default: the sources that the key allows.",
        examples=[["local"]],
    )

    def to_domain(self) -> Limits:
        return Limits(**dict(self) | {"sources": None if self.sources is None else tuple(self.sources)})


class NewTask(RequestSchema):
    """A new task. Only `prompt` is required; the server chooses profile, role, mode and engine if they are left out."""

    prompt: str = Field(
        pattern=NO_NUL,
        json_schema_extra={"pattern": NOT_BLANK_NO_NUL},
        description="The text of the task: 1 to 200,000 characters after trimming; the server's setting "
        "LLM_SERVER_PROMPT_MAX_CHARS changes the maximum.",
        examples=["Write a haiku about queues."],
    )
    profile: str | None = Field(
        default=None,
        description="The field of work from which the analysis chooses a role. `GET /api/v1/catalog` lists the "
        "profiles. Default: the profile of the chosen role, or General when the analysis is not sure of the role.",
        examples=["General"],
    )
    role: str | None = Field(
        default=None,
        description="The role that carries out the task. `GET /api/v1/catalog` lists the roles. "
        "Default: the role that the analysis chooses, or the profile's default role when the analysis is not sure.",
        examples=["Writing-Agent"],
    )
    mode: ModeName | None = Field(
        default=None,
        description="How the task is carried out, in upper or lower case. Default: the mode that the analysis chooses.",
        examples=["Agent"],
    )
    engine: str | None = Field(
        default=None,
        description="The configured engine to call. The server then calls no other. Default: the server chooses.",
        examples=["embedded"],
    )
    limits: NewLimits = Field(
        default_factory=NewLimits,
        description="Limits on cost, time and length.",
        examples=[{"max_cost_usd": 0.05, "deadline_s": 120}],
    )
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict,
        max_length=MAX_METADATA,
        json_schema_extra=_describe_pairs,
        description="Up to 16 pairs of a name and a text, for the caller's own use; returned with the task.",
        examples=[{"ticket": "4711"}],
    )
    plan_approval: bool = Field(
        default=False,
        description="Whether a task in Plan mode stops after its plan until the caller approves or rejects the plan.",
        examples=[False],
    )
    priority: PriorityName = Field(
        default=Priority.INTERACTIVE,
        description="`interactive`: a caller waits for the answer. `batch`: the answer may come later; while your "
        "interactive tasks wait for a worker, one batch task is started after every four of them. Tasks of other "
        "tenants have turns of their own.",
        examples=["batch"],
    )

    stream: bool = Field(
        default=False,
        description="Whether `GET /api/v1/tasks/{task_id}/events` tells the text of the engine calls piece by piece, "
        "as the engines write it. The other events are told for every task.",
        examples=[True],
    )
    previous_task_id: EarlierId | None = Field(
        default=None,
        description="The Completed task that this one follows: engines are told its prompt and its result, and those "
        "of the tasks before it. Several tasks may follow the same one.",
        examples=["01a205c3-cd94-748c-a7f0-50965914d0b5"],
    )
    conversation_id: EarlierId | None = Field(
        default=None,
        description="The conversation that the task is added to: it follows the last Completed task. The id comes from "
        "`POST /api/v1/conversations`. Refused (409) while another task of the conversation is not final.",
        examples=["01a205c3-cdb6-7178-90a4-9b068c5161a4"],
    )

    output_schema: dict[str, Any] | None = Field(
        default=None,
        description="A JSON schema (2020-12) that the result follows: the result is then JSON text, checked by the "
        "server. At most 32 KiB as JSON, 8 levels of schemas, and `$ref` only inside the document.",
        examples=[{"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}],
    )

    def to_domain(self) -> new_task.NewTask:
        return new_task.NewTask(**dict(self) | {"limits": self.limits.to_domain()})


class PlanDecision(RequestSchema):
    """The plan that the caller approves or rejects."""

    plan_hash: str = Field(
        description="The `plan.hash` that `GET /api/v1/tasks/{task_id}` returned with the plan.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class PlanApproval(PlanDecision):
    """The plan that the caller approves, and what its task may cost from then on."""

    max_cost_usd: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="The most the task may cost from now on, in USD, what it has cost so far included. It must not be "
        "above the `limits.max_cost_usd` of the task, nor below what counts against it already. Default: the limit of "
        "the task stays.",
        examples=[0.05],
    )

    @property
    def max_cost_microusd(self) -> int | None:
        return Limits(max_cost_usd=self.max_cost_usd).max_cost_microusd
