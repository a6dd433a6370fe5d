"""The request schemas of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from llm_server.api.schemas.base import RequestSchema, SourceList, whole
from llm_server.orchestration.domain.engines import message
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Priority, known_spelling
from llm_server.orchestration.tasks import new_task
from llm_server.orchestration.tasks.messages.images import MAX_IMAGES, of_url
from llm_server.orchestration.tasks.messages.tools import MAX_TOOLS, NAME

MAX_METADATA = 16
NO_NUL = r"^[^\x00]*$"
NOT_BLANK_NO_NUL = r"^[^\x00]*[^\s\x00\x1c-\x1f\x85][^\x00]*$"
"""Matches texts without NUL that `str.strip` does not empty.

Python also strips \x1c to \x1f and \x85, which ECMA-262's `\\s` does not match.
"""
TOOL_NAME = rf"^{NAME.pattern}$"

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


class Attachment(RequestSchema):
    """An image that belongs to the prompt."""

    type: Literal["image"] = Field(description="What it is; only images are accepted.", examples=["image"])
    url: str = Field(
        min_length=1,
        pattern=NO_NUL,
        description="The image as a data URL, `data:image/png;base64,...`: image/png, image/jpeg, image/gif or "
        "image/webp. An https:// URL, which the engine fetches, only if the server's setting "
        "LLM_SERVER_REMOTE_IMAGES allows it.",
        examples=["data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs="],
    )


class FunctionTool(RequestSchema):
    """A function that the engine may ask you to call."""

    type: Literal["function"] = Field(default="function", description="The kind of the tool.", examples=["function"])
    name: str = Field(
        pattern=TOOL_NAME, description="The name of the function, unique in the task.", examples=["get_weather"]
    )
    description: str = Field(
        default="",
        pattern=NO_NUL,
        description="What the function does, for the model.",
        examples=["Tells the weather of a city."],
    )
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="The JSON schema of its arguments, an object. Default: no arguments.",
        examples=[{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}],
    )
    strict: bool | None = Field(
        default=None,
        description="Whether the engine must follow the schema exactly, if it can. Default: the engine decides.",
        examples=[True],
    )


class NamedTool(RequestSchema):
    """The function that the engine must ask for."""

    name: str = Field(pattern=TOOL_NAME, description="The name of one of the `tools`.", examples=["get_weather"])

    def to_domain(self) -> message.ToolChoice:
        return message.ToolChoice(mode="required", name=self.name)


def _choice(value: object, validated: ValidatorFunctionWrapHandler) -> Any:
    """Describe a wrong choice in one sentence; pydantic would tell a fault for each kind of choice."""
    try:
        return validated(value)
    except ValidationError:
        allowed = 'auto, none, required or {"name": "..."}'
        raise PydanticCustomError("tool_choice", "allowed is {allowed}", {"allowed": allowed}) from None


ToolChoiceField = Annotated[Literal["auto", "none", "required"] | NamedTool, WrapValidator(_choice)]


class ToolResult(RequestSchema):
    """The result of a function call."""

    call_id: str = Field(
        min_length=1, max_length=256, pattern=NO_NUL, description="The `call_id` of the call.", examples=["call_1"]
    )
    output: str = Field(
        pattern=NO_NUL, description="What the function returned, or why it failed, as text.", examples=["18 degrees"]
    )


class NewTask(RequestSchema):
    """A new task. Only `prompt` is required; the server chooses profile, role, mode and engine if they are left out."""

    prompt: str = Field(
        pattern=NO_NUL,
        json_schema_extra={"pattern": NOT_BLANK_NO_NUL},
        description="The text of the task: 1 to 200,000 characters after trimming; the server's setting "
        "LLM_SERVER_PROMPT_MAX_CHARS changes the maximum. With `tool_results`, it may be left out or blank.",
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
    attachments: list[Attachment] = Field(
        default_factory=list,
        max_length=MAX_IMAGES,
        description="Images that belong to the prompt: at most 16, of at most 5 MB each and 15 MB together. Only "
        "engines that take images are called then.",
        examples=[[{"type": "image", "url": "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs="}]],
    )
    tools: list[FunctionTool] = Field(
        default_factory=list,
        max_length=MAX_TOOLS,
        description="Functions that the engine may ask you to call: the Completed task then has `tool_calls`. Send "
        "their results with the next task. Such a task is never carried out in Plan mode, and only engines that take "
        "function tools are called.",
    )
    tool_choice: ToolChoiceField | None = Field(
        default=None,
        description="Whether the engine may (`auto`, the default), must (`required`) or must not (`none`) ask for a "
        "function call; with a name, it must ask for that function.",
        examples=["auto"],
    )
    tool_results: list[ToolResult] = Field(
        default_factory=list,
        max_length=MAX_TOOLS,
        description="The results of the function calls that the previous task asked for: one for each of its "
        "`tool_calls`. Needs `previous_task_id` or `conversation_id`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_prompt(cls, given: Any) -> Any:
        """Let the prompt be left out beside results of function calls."""
        is_left_out = isinstance(given, dict) and bool(given.get("tool_results")) and "prompt" not in given
        return {**given, "prompt": ""} if is_left_out else given

    def to_domain(self) -> new_task.NewTask:
        """Return the task. Raises InvalidInput if an attachment has another kind of URL."""
        fields = dict(self) | {"limits": self.limits.to_domain()}
        attachments, results = fields.pop("attachments"), fields.pop("tool_results")
        choice = self.tool_choice
        fields |= {
            "messages": _messages(self.prompt.strip(), attachments, results),
            "tools": tuple(message.Tool(**_without_type(tool)) for tool in self.tools),
            "tool_choice": choice.to_domain() if isinstance(choice, NamedTool) else choice and _chosen(choice),
        }
        return new_task.NewTask(**fields)


def _messages(
    prompt: str, attachments: Sequence[Attachment], results: Sequence[ToolResult]
) -> tuple[message.Message, ...]:
    """Return the messages that take the place of the prompt; () if the prompt alone is sent."""
    if not (attachments or results):
        return ()
    given = [message.Message(role="tool", text=each.output, tool_call_id=each.call_id) for each in results]
    if prompt or attachments:
        seen = tuple(of_url(number, each.url) for number, each in enumerate(attachments, start=1))
        given.append(message.Message(role="user", text=prompt, images=seen))
    return tuple(given)


def _without_type(tool: FunctionTool) -> dict[str, Any]:
    return {name: value for name, value in dict(tool).items() if name != "type"}


def _chosen(mode: Literal["auto", "none", "required"]) -> message.ToolChoice:
    return message.ToolChoice(mode=mode)


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
