"""A chat completion's request as a new task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from llm_server.api.openai.requests import extras, fields, schemas, tools
from llm_server.api.openai.requests.content import content
from llm_server.api.openai.requests.reading import Part
from llm_server.api.openai.requests.target import Target
from llm_server.orchestration.domain.engines.message import Message, ToolCall
from llm_server.orchestration.tasks.new_task import NewTask

_SPEAKERS = ("system", "developer", "user", "assistant", "tool")
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations", "audio", "function_call")


class Said(Struct, frozen=True, kw_only=True):
    """The messages of a request without the system's, and the text of the system's ones together."""

    messages: tuple[Message, ...]
    instructions: str = ""

    @property
    def prompt(self) -> str:
        """The text of the last user message; "" without one."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def beside_prompt(self) -> tuple[Message, ...]:
        """The messages as a task has them: () if they are the prompt alone."""
        is_prompt = len(self.messages) == 1 and self.messages[0] == Message(role="user", text=self.prompt)
        return () if is_prompt else self.messages


def new_task(body: Part, target: Target) -> NewTask:
    """Return the task that a body of `POST /v1/chat/completions` asks for. Raises InvalidInput."""
    fields.check(body, fields.CHAT_USED, fields.CHAT_IGNORED, fields.CHAT_REFUSED)
    said = spoken(body.parts("messages"))
    if not said.messages:
        body.fail("messages", "must have at least one message of the role 'user'")
    return NewTask(
        prompt=said.prompt,
        profile=body.text("profile"),
        role=body.text("role") or target.role,
        mode=target.mode,
        engine=target.engine,
        limits=extras.limits(body, "max_tokens", "max_completion_tokens"),
        metadata=extras.metadata(body),
        stream=body.flag("stream"),
        messages=said.beside_prompt,
        instructions=said.instructions,
        tools=tools.of_chat(body),
        tool_choice=tools.choice(body, within="function"),
        output_schema=schemas.of_chat(body),
    )


def includes_usage(body: Part) -> bool:
    """Return whether a stream is to end with a chunk of the usage. Raises InvalidInput."""
    options = body.part("stream_options")
    if options is None:
        return False
    options.only(("include_usage", "include_obfuscation"))
    return options.flag("include_usage")


def spoken(messages: Iterable[Part]) -> Said:
    """Read the messages of a request. Raises InvalidInput."""
    system, found = list[str](), list[Message]()
    for message in messages:
        message.only(_FIELDS)
        speaker = message.choice("role", _SPEAKERS)
        if speaker in ("system", "developer"):
            system.append(content(message)[0])
        elif speaker == "user":
            text, images = content(message, images="image_url")
            found.append(Message(role="user", text=text, images=images))
        elif speaker == "assistant":
            calls = tuple(_calls(message))
            found.append(Message(role="assistant", text=content(message)[0], tool_calls=calls))
        elif speaker == "tool":
            answered = message.needed_text("tool_call_id")
            found.append(Message(role="tool", text=content(message)[0], tool_call_id=answered))
        else:
            message.fail("role", "is missing")
    return Said(messages=tuple(found), instructions=joined(system))


def joined(system: Sequence[str]) -> str:
    """Return the texts of system messages as one text."""
    return "\n\n".join(text for text in system if text)


def _calls(message: Part) -> Iterable[ToolCall]:
    for call in message.parts("tool_calls"):
        function = call.needed_part("function")
        yield ToolCall(
            call_id=call.needed_text("id"),
            name=function.needed_text("name"),
            arguments=function.needed_text("arguments"),
        )
