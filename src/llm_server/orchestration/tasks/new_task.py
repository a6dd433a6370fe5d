"""The task that a caller asks for, and the checks of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.domain.engines import chat
from llm_server.orchestration.domain.engines.allowed import checked_sources, without_unset_sources
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.domain.engines.chat import Need
from llm_server.orchestration.domain.engines.message import Message, Tool, ToolChoice
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Mode, Priority, known_spelling
from llm_server.orchestration.tasks.messages import images, tools


class NewTask(Struct, frozen=True, kw_only=True):
    """The task that a caller asks for. If profile, role, mode or engine is None, the server chooses it.

    `messages`, `instructions`, `tools`, `tool_choice`, `output_schema`: as in `Request`.
    """

    prompt: str
    profile: str | None = None
    role: str | None = None
    mode: Mode | None = None
    engine: str | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, str] = field(default_factory=dict)
    plan_approval: bool = False
    priority: Priority = Priority.INTERACTIVE
    stream: bool = False
    previous_task_id: str | None = None
    conversation_id: str | None = None
    messages: tuple[Message, ...] = ()
    instructions: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    output_schema: Mapping[str, Any] | None = None

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the engines must take, without what the turns before the task need."""
        return chat.needs_of(self.messages, self.tools) if self.messages or self.tools else ()

    @property
    def may_be_planned(self) -> bool:
        """Whether the task may be carried out in Plan mode. Only the call for an answer has function tools."""
        return not self.tools and not chat.goes_on_after_prompt(self.messages)

    def digest(self) -> str:
        """Return a hash of the fields. Leaving a field out gives the same hash as setting it to its default."""
        fields = without_unset_sources(self)
        given = {name: value for name, value in fields.items() if value != _DEFAULTS[name]}
        return sha256(msgspec.json.encode(given, order="sorted")).hexdigest()


_DEFAULTS = without_unset_sources(NewTask(prompt=""))


def normalise(new: NewTask, catalog: Catalog) -> NewTask:
    """Trim the prompt, spell profile and role as they are configured, and sort the limit of sources.

    An Idempotency-Key treats bodies that differ only in this as the same body. Unknown names are not changed.
    """
    limits = new.limits
    return replace(
        new,
        prompt=new.prompt.strip(),
        profile=None if new.profile is None else known_spelling(new.profile, catalog.profiles),
        role=None if new.role is None else known_spelling(new.role, catalog.roles),
        limits=replace(limits, sources=None if limits.sources is None else tuple(sorted(limits.sources))),
    )


def validate(new: NewTask, catalog: Catalog, *, prompt_max_chars: int, remote_images: bool = False) -> NewTask:
    """Check a new task, and return it normalised.

    Raises:
        InvalidInput: the prompt is blank or too long, the profile or role is unknown, the schema of the result cannot
            be used, or as `checked_sources`, `images.check` and `tools.check_tools`.
    """
    new = normalise(new, catalog)
    length = len(new.prompt)
    if not length and not chat.goes_on_after_prompt(new.messages):
        raise InvalidInput("prompt", "The prompt is blank; it needs at least one character that is not white space.")
    if length > prompt_max_chars:
        message = f"The prompt has {length} characters; at most {prompt_max_chars} are accepted."
        raise InvalidInput("prompt", message)
    if new.messages or new.tools or new.tool_choice or new.instructions:
        _check_sent(new, prompt_max_chars, remote_images=remote_images)
    if new.profile is not None:
        catalog.profile(new.profile)
    if new.role is not None:
        catalog.role(new.role)
    if new.output_schema is not None:
        from llm_server.orchestration.domain.result_schema.accepted import check  # rarely needed

        check(new.output_schema)
    return replace(new, limits=replace(new.limits, sources=checked_sources(new.limits.sources)))


def _check_sent(new: NewTask, max_chars: int, *, remote_images: bool) -> None:
    """Check what is sent beside the prompt. Raises InvalidInput."""
    length = len(new.instructions) + sum(len(message.texts) for message in new.messages)
    if length > max_chars:
        message = f"All texts of the task have {length} characters together; at most {max_chars} are accepted."
        raise InvalidInput("prompt", message)
    images.check([image for message in new.messages for image in message.images], remote=remote_images)
    tools.check_tools(new.tools, new.tool_choice)
    if new.mode is Mode.PLAN and not new.may_be_planned:
        message = (
            "A task with function tools, or with results of their calls, cannot have the mode Plan; choose another."
        )
        raise InvalidInput("mode", message)
