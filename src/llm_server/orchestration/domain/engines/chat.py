"""The messages of a caller: which of them are the prompt, what they ask of an engine, and which calls have results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from msgspec.structs import replace

from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall

Messages = tuple[Message, ...]
Need = Literal["tools", "vision"]
"""What a task asks of its engines: function tools, or images. An `EngineSpec` has a field of the same name for each."""


def needs_of(messages: Sequence[Message], tools: Collection[Tool] = ()) -> tuple[Need, ...]:
    """Return what an engine must take to be sent these messages and tools."""
    calls = tools or any(message.tool_calls or message.role == "tool" for message in messages)
    found: dict[Need, bool] = {"tools": bool(calls), "vision": any(message.images for message in messages)}
    return tuple(need for need, is_needed in found.items() if is_needed)


def both(needs: Collection[Need], others: Collection[Need]) -> tuple[Need, ...]:
    """Return what either of them asks, in a fixed order."""
    known: tuple[Need, ...] = ("tools", "vision")
    return tuple(need for need in known if need in needs or need in others)


def before_prompt(messages: Messages) -> Messages:
    """Return the messages before the last one of the user; () without one of the user."""
    return messages[: _last_of_user(messages)] if _last_of_user(messages) is not None else ()


def images_of_prompt(messages: Messages) -> tuple[Image, ...]:
    """Return the images of the last message of the user."""
    last = _last_of_user(messages)
    return () if last is None else messages[last].images


def goes_on_after_prompt(messages: Messages) -> bool:
    """Return whether function calls or their results come after the last message of the user."""
    return bool(messages) and messages[-1].role != "user"


def paired(messages: Messages) -> Messages:
    """Return the messages without calls that have no result, and without results of no call.

    Engines refuse both. They come from turns that were deleted, or have expired, between others. The results of an
    answer's calls come right after it.
    """
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return messages
    kept, open_ids = list[Message](), set[str]()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id in open_ids:
                open_ids.discard(message.tool_call_id)
                kept.append(message)
            continue
        open_ids = _results_at(messages, index + 1)
        calls = tuple(call for call in message.tool_calls if call.call_id in open_ids)
        open_ids = {call.call_id for call in calls}
        if message.tool_calls and not (calls or message.text):
            continue
        kept.append(message if calls == message.tool_calls else replace(message, tool_calls=calls))
    return tuple(kept)


def open_calls(before: tuple[ToolCall, ...], messages: Messages) -> tuple[tuple[ToolCall, ...], str]:
    """Follow the function calls through messages that come after an answer with the calls `before`.

    Returns the calls that have no result at the end, and what is wrong with the messages, in a sentence; "" if nothing
    is.
    """
    left = {call.call_id: call for call in before}
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in left:
                known = f"open are {', '.join(left)}" if left else "no call is open"
                return (), f"{message.tool_call_id[:60]!r} is not an open function call; {known}."
            del left[message.tool_call_id]
            continue
        if left:
            return (), f"The function calls {', '.join(left)} have no result; send one for each, before other messages."
        left = {call.call_id: call for call in message.tool_calls}
    return tuple(left.values()), ""


def _results_at(messages: Messages, start: int) -> set[str]:
    """Return the ids of the calls whose results begin at an index."""
    found = set[str]()
    for message in messages[start:]:
        if message.role != "tool":
            break
        found.add(message.tool_call_id)
    return found


def _last_of_user(messages: Messages) -> int | None:
    return next((n for n in reversed(range(len(messages))) if messages[n].role == "user"), None)
