"""The response schemas of a task's events."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from pydantic import Field

from llm_server.api.schemas.base import ResponseSchema, Time
from llm_server.api.schemas.tasks import ToolCallView
from llm_server.orchestration.domain.engines.message import ToolCall


class EventDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as it is sent, without the fields that it does not have. `EventOfStream` describes the fields.

    A stream sends one for each piece of text; a pydantic model takes ten times as long to write.
    """

    number: int
    event: str
    at: str
    actor: str
    detail: str = ""
    step: str | None = None
    engine: str | None = None
    item: int | None = None
    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class EventOfStream(ResponseSchema):
    """One event of a task. Fields that an event does not have are left out."""

    number: int = Field(
        ge=1,
        description="Identifies the event within its task, and never changes. Numbers grow from event to event, and "
        "some may be missing.",
        examples=[7],
    )
    event: str = Field(
        description="What happened, as in `events` of a task; and `text.delta`, a piece of text of an engine call of a "
        "task with `stream`. Later versions may add events.",
        examples=["text.delta"],
    )
    at: Time = Field(description="When it happened.")
    actor: Literal["caller", "server", "worker", "sweep"] = Field(
        description="What caused the event. `sweep` is the server's regular check of open tasks.", examples=["worker"]
    )
    detail: str = Field(default="", description="More about the event.", examples=["Chat mode, Writing-Agent"])
    step: str = Field(default="", description="The step of the plan that the event belongs to.", examples=["s1"])
    engine: str = Field(default="", description="The engine that was called.", examples=["claude"])
    item: int = Field(
        default=0,
        description="For a piece of text: the number of the event that began the engine call. The pieces with the same "
        "`item` make one text.",
        examples=[5],
    )
    text: str = Field(default="", description="A piece of text.", examples=["One by "])
    tool_calls: list[ToolCallView] = Field(
        default_factory=list, description="Of the event `completed`: the function calls that the answer asks for."
    )


class EventsPage(ResponseSchema):
    """The events of a task after the one that the call names."""

    events: list[EventOfStream] = Field(description="The events, in the order of their numbers.")
    last: int = Field(ge=0, description="The `starting_after` of the next call.", examples=[7])
    ended: bool = Field(
        description="Whether the task is final, and `events` has its last event. Only a retry of the task adds more.",
        examples=[False],
    )
