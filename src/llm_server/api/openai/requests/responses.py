"""A response's request as a new task."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from llm_server.api.openai import ids
from llm_server.api.openai.requests import extras, fields, schemas, tools
from llm_server.api.openai.requests.chat import Said, joined
from llm_server.api.openai.requests.content import content
from llm_server.api.openai.requests.reading import Part
from llm_server.api.openai.requests.target import Target
from llm_server.orchestration.domain.engines.message import Message, ToolCall
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.tasks.new_task import NewTask

_SPEAKERS = ("user", "assistant", "system", "developer")
_WINDOWS = {"soonest": Priority.INTERACTIVE, "2h": Priority.BATCH, "8h": Priority.BATCH}
_IGNORED_ITEMS = ("reasoning",)
"""Kinds of items that a client may send back with the rest of an output, and that no engine is told."""


def new_task(body: Part, target: Target) -> NewTask:
    """Return the task that a body of `POST /v1/responses` asks for. Raises InvalidInput."""
    fields.check(body, fields.RESPONSES_USED, fields.RESPONSES_IGNORED, fields.RESPONSES_REFUSED)
    said = spoken(body)
    if not said.messages:
        body.fail("input", "must have a text, or at least one message of the role 'user'")
    previous, conversation = body.text("previous_response_id"), _conversation(body)
    if previous is not None and conversation is not None:
        body.fail("conversation", "must not be sent with 'previous_response_id'; send one of them")
    for name, given in (("previous_response_id", previous), ("conversation", conversation)):
        if given is not None and not ids.is_valid(given):
            body.fail(name, "is not the id of a response or a conversation")
    body.flag("background")
    return NewTask(
        prompt=said.prompt,
        profile=body.text("profile"),
        role=body.text("role") or target.role,
        mode=target.mode,
        engine=target.engine,
        limits=extras.limits(body, "max_output_tokens"),
        metadata=extras.metadata(body),
        priority=_priority(body),
        stream=body.flag("stream"),
        previous_task_id=None if previous is None else ids.task_of_response(previous),
        conversation_id=None if conversation is None else ids.conversation_of(conversation),
        messages=said.beside_prompt,
        instructions=said.instructions,
        tools=tools.of_responses(body),
        tool_choice=tools.choice(body),
        output_schema=schemas.of_responses(body),
    )


def spoken(body: Part) -> Said:
    """Read `input` and `instructions`; system messages of the input follow the instructions. Raises InvalidInput."""
    system = [body.text("instructions") or ""]
    if body.has("input") and not isinstance(body.value("input"), str | list):
        body.fail("input", "must be a string or a list")
    if not isinstance(body.value("input"), list):
        text = body.text("input")
        messages = () if text is None else (Message(role="user", text=text),)
        return Said(messages=messages, instructions=joined(system))
    found = list[Message]()
    for item in body.parts("input"):
        _add(item, system, found)
    return Said(messages=tuple(_together(found)), instructions=joined(system))


def _add(item: Part, system: list[str], found: list[Message]) -> None:
    """Add an item of the input to the texts of the system, or to the messages."""
    kind = item.text("type") or "message"
    if kind == "message":
        speaker = item.choice("role", _SPEAKERS)
        text, images = content(item, images="input_image" if speaker == "user" else None)
        if speaker in ("system", "developer"):
            system.append(text)
        elif speaker == "user":
            found.append(Message(role="user", text=text, images=images))
        elif speaker == "assistant":
            found.append(Message(role="assistant", text=text))
        else:
            item.fail("role", "is missing")
    elif kind == "function_call":
        call = ToolCall(
            call_id=item.needed_text("call_id"),
            name=item.needed_text("name"),
            arguments=item.needed_text("arguments"),
        )
        found.append(Message(role="assistant", tool_calls=(call,)))
    elif kind == "function_call_output":
        text, _ = content(item, "output")
        found.append(Message(role="tool", text=text, tool_call_id=item.needed_text("call_id")))
    elif kind not in _IGNORED_ITEMS:
        accepted = "message, function_call, function_call_output, reasoning"
        item.fail("type", f"is {kind[:40]!r}, which this server does not accept; accepted are {accepted}")


def _together(messages: Iterable[Message]) -> Iterable[Message]:
    """Join what an assistant said with the function calls that follow it: they are one message of the engine."""
    held: Message | None = None
    for message in messages:
        if held and message.role == "assistant" and message.tool_calls:
            held = replace(held, tool_calls=(*held.tool_calls, *message.tool_calls))
            continue
        if held:
            yield held
        held = message if message.role == "assistant" else None
        if held is None:
            yield message
    if held:
        yield held


def _conversation(body: Part) -> str | None:
    """Return the id of the conversation, which is sent as it is or in an object."""
    if isinstance(body.value("conversation"), dict):
        return body.needed_part("conversation").needed_text("id")
    return body.text("conversation")


def _priority(body: Part) -> Priority:
    options = body.part("background_options")
    if options is None:
        return Priority.INTERACTIVE
    options.only(("completion_window",))
    return _WINDOWS[options.choice("completion_window", tuple(_WINDOWS)) or "soonest"]
