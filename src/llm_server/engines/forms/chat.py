"""Messages and tools for Chat Completions (https://platform.openai.com/docs/api-reference/chat/create)."""

from __future__ import annotations

from typing import Any

from llm_server.engines.wire import json_object, json_objects, tool_call
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice


def messages(call: EngineCall) -> list[dict[str, Any]]:
    """Return the messages of a call, its system prompt first."""
    system = [{"role": "system", "content": call.system}] if call.system else []
    return [*system, *map(_message, call.messages)]


def tool_fields(call: EngineCall) -> dict[str, Any]:
    """Return the fields for the tools of a call; {} if it has none."""
    if not call.tools:
        return {}
    tools = [{"type": "function", "function": _function(tool)} for tool in call.tools]
    return {"tools": tools, **({"tool_choice": _choice(call.tool_choice)} if call.tool_choice else {})}


def tool_calls(message: dict[str, Any]) -> tuple[ToolCall, ...]:
    """Return the function calls that an answer's message asks for."""
    asked = [(call.get("id"), json_object(call.get("function"))) for call in json_objects(message.get("tool_calls"))]
    return tuple(tool_call(call_id, function.get("name"), function.get("arguments")) for call_id, function in asked)


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case "user" if message.images:
            texts = [{"type": "text", "text": message.text}] if message.text else []
            return {"role": "user", "content": [*texts, *map(_image, message.images)]}
        case "assistant" if message.tool_calls:
            calls = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
            return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
        case "tool":
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
    return {"role": message.role, "content": message.text}


def _image(image: Image) -> dict[str, Any]:
    url = image.url or f"data:{image.media_type};base64,{image.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _function(tool: Tool) -> dict[str, Any]:
    optional = {"description": tool.description or None, "parameters": tool.parameters, "strict": tool.strict}
    return {"name": tool.name, **{name: value for name, value in optional.items() if value is not None}}


def _choice(choice: ToolChoice) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode
