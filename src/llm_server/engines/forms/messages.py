"""Messages and tools for Anthropic's Messages (https://platform.claude.com/docs/en/api/messages)."""

from __future__ import annotations

from typing import Any

from llm_server.engines.forms.blocks import Block, arguments_of, known_tools, parameters_of, turns
from llm_server.engines.wire import tool_call
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice


def messages(call: EngineCall) -> list[dict[str, Any]]:
    """Return the messages of a call; the system prompt has a field of its own. A turn of one text is only its text."""
    return [{"role": role, "content": _content(blocks)} for role, blocks in turns(call, _blocks)]


def tool_fields(call: EngineCall) -> dict[str, Any]:
    """Return the fields for the tools of a call; {} if it needs none."""
    tools = [_tool(tool) for tool in known_tools(call)]
    if not tools:
        return {}
    choice = call.tool_choice if call.tools else ToolChoice(mode="none")
    return {"tools": tools, **({"tool_choice": _choice(choice)} if choice else {})}


def tool_calls(content: list[dict[str, Any]]) -> tuple[ToolCall, ...]:
    """Return the function calls that an answer's blocks ask for."""
    used = [block for block in content if block.get("type") == "tool_use"]
    return tuple(tool_call(block.get("id"), block.get("name"), block.get("input")) for block in used)


def _content(blocks: list[Block]) -> Any:
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


def _blocks(message: Message) -> list[Block]:
    """Return the blocks of a message. An empty text is left out beside others, because the API refuses it."""
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.text}]
    others = [*map(_image, message.images), *map(_use, message.tool_calls)]
    texts = [{"type": "text", "text": message.text}] if message.text or not others else []
    return [*texts, *others]


def _image(image: Image) -> Block:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}}


def _use(call: ToolCall) -> Block:
    return {"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments_of(call)}


def _tool(tool: Tool) -> dict[str, Any]:
    optional = {"description": tool.description or None, "strict": tool.strict}
    shown = {name: value for name, value in optional.items() if value is not None}
    return {"name": tool.name, **shown, "input_schema": parameters_of(tool)}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    if choice.name:
        return {"type": "tool", "name": choice.name}
    return {"type": {"auto": "auto", "none": "none", "required": "any"}[choice.mode]}
