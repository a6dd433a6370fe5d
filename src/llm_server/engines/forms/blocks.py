"""Messages as blocks of content, for APIs in which the user and the assistant take turns (Anthropic, Bedrock)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import Message, Tool, ToolCall

Block = dict[str, Any]


def turns(call: EngineCall, blocks_of: Callable[[Message], list[Block]]) -> list[tuple[str, list[Block]]]:
    """Return the role and the blocks of each turn.

    A tool's result belongs to a turn of the user. Messages of one role that follow one another make one turn, because
    these APIs refuse two in a row.
    """
    merged: list[tuple[str, list[Block]]] = []
    for message in call.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = blocks_of(message)
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, blocks))
    return [(role, blocks) for role, blocks in merged if blocks]


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments as the object that these APIs want; what is not one becomes its only field."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"arguments": call.arguments}


def known_tools(call: EngineCall) -> tuple[Tool, ...]:
    """Return the tools of a call; without any, those whose calls are in its messages.

    These APIs refuse messages with calls of tools if no tool is described.
    """
    if call.tools:
        return call.tools
    names = dict.fromkeys(asked.name for message in call.messages for asked in message.tool_calls)
    return tuple(Tool(name=name) for name in names)


def parameters_of(tool: Tool) -> Any:
    """Return the schema of a tool's arguments; these APIs demand one."""
    return tool.parameters or {"type": "object", "properties": {}}
