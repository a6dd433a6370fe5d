"""What comes in over HTTP about tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from llm_server.api.schemas.base import Strict, whole
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, known_spelling
from llm_server.orchestration.tasks import new_task

MAX_METADATA = 16
NO_NUL = r"^[^\x00]*$"
NOT_BLANK_NO_NUL = r"^[^\x00]*[^\s\x00\x1c-\x1f\x85][^\x00]*$"
"""What `str.strip` leaves something of, as ECMA-262 says it: the separators of ASCII are no white space there."""

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]


OutputTokens = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(whole)]


class NewLimits(Strict):
    """What the caller allows the task."""

    max_cost_usd: float | None = Field(
        default=None, gt=0, le=10_000, description="No engine call is made that could go over it."
    )
    deadline_s: float | None = Field(
        default=None, ge=1, le=604_800, description="Seconds from acceptance; then the task fails."
    )
    max_output_tokens: OutputTokens | None = Field(default=None, description="For each engine call.")


def _mode(value: object) -> object:
    """Spell a mode as it is known; anything else is left to the validation."""
    return known_spelling(value, Mode) if isinstance(value, str) else value


class NewTask(Strict):
    """A prompt and, if the caller likes, how it is to be done."""

    prompt: str = Field(
        pattern=NO_NUL,
        json_schema_extra={"pattern": NOT_BLANK_NO_NUL},
        description="1 to 200,000 characters after trimming.",
        examples=["Summarise this text: ..."],
    )
    profile: str | None = Field(
        default=None,
        description="The analysis chooses a role inside a given one. Default: the profile of the role that it chooses; "
        "General when it is not sure.",
    )
    role: str | None = Field(default=None, description="Default: the analysis chooses; Chat-Agent when it is not sure.")
    mode: Annotated[Literal["Chat", "Agent", "Plan"] | None, BeforeValidator(_mode)] = Field(
        default=None, description="Default: the analysis chooses. Upper and lower case are the same."
    )
    engine: str | None = Field(default=None, description="A configured engine; it alone is asked.")
    limits: NewLimits = Field(default_factory=NewLimits)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict,
        max_length=MAX_METADATA,
        json_schema_extra={"additionalProperties": False},  # pydantic leaves keys free that break their pattern
    )
    plan_approval: bool = Field(default=False, description="Stop at the plan until it is approved or rejected.")

    def to_domain(self) -> new_task.NewTask:
        limits = Limits(**self.limits.model_dump())
        mode = Mode(self.mode) if self.mode else None
        return new_task.NewTask(**self.model_dump(exclude={"limits", "mode"}), limits=limits, mode=mode)


class PlanDecision(Strict):
    """The caller's word on a plan."""

    plan_hash: str = Field(description="`plan.hash` of the task, as it was read.")
