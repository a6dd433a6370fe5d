"""Messages and tools for Bedrock's Converse.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

import base64
from typing import Any

from llm_server.engines.failures import BadRequest
from llm_server.engines.forms.blocks import Block, arguments_of, known_tools, parameters_of, turns
from llm_server.engines.wire import json_object, tool_call
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice

FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}


def messages(call: EngineCall) -> list[dict[str, Any]]:
    """Return the messages of a call; the system prompt has a field of its own.

    Raises:
        BadRequest: an image is given by its URL, or has a type that Bedrock does not take.
    """
    return [{"role": role, "content": blocks} for role, blocks in turns(call, _blocks)]


def tool_fields(call: EngineCall) -> dict[str, Any]:
    """Return the field for the tools of a call; {} if it needs none.

    Converse has no choice that forbids calls, so the tools are left out then, unless messages have calls of them.
    """
    is_forbidden = call.tool_choice is not None and call.tool_choice.mode == "none" and not call.tool_choice.name
    has_calls = any(message.tool_calls for message in call.messages)
    tools = known_tools(call)
    if not tools or (is_forbidden and not has_calls):
        return {}
    config: dict[str, Any] = {"tools": [{"toolSpec": _tool(tool)} for tool in tools]}
    if call.tools and call.tool_choice and not is_forbidden:
        config["toolChoice"] = _choice(call.tool_choice)
    return {"toolConfig": config}


def tool_calls(content: list[dict[str, Any]]) -> tuple[ToolCall, ...]:
    """Return the function calls that an answer's blocks ask for."""
    used = [json_object(block["toolUse"]) for block in content if "toolUse" in block]
    return tuple(tool_call(use.get("toolUseId"), use.get("name"), use.get("input")) for use in used)


def _blocks(message: Message) -> list[Block]:
    """Return the blocks of a message. An empty text is left out beside others, because the API refuses it."""
    if message.role == "tool":
        content = [{"text": message.text}]
        return [{"toolResult": {"toolUseId": message.tool_call_id, "content": content}}]
    uses = [
        {"toolUse": {"toolUseId": call.call_id, "name": call.name, "input": arguments_of(call)}}
        for call in message.tool_calls
    ]
    others = [*map(_image, message.images), *uses]
    texts: list[Block] = [{"text": message.text}] if message.text or not others else []
    return [*texts, *others]


def _image(image: Image) -> Block:
    if image.url:
        raise BadRequest("Bedrock takes images as data only, not by their URL.")
    if image.media_type not in FORMATS:
        raise BadRequest(f"Bedrock takes images of the types {', '.join(FORMATS)} only.")
    try:
        data = base64.b64decode(image.data, validate=True)
    except ValueError as error:
        raise BadRequest("An image is not valid base64.") from error
    return {"image": {"format": FORMATS[image.media_type], "source": {"bytes": data}}}


def _tool(tool: Tool) -> dict[str, Any]:
    optional = {"description": tool.description or None, "strict": tool.strict}
    shown = {name: value for name, value in optional.items() if value is not None}
    return {"name": tool.name, **shown, "inputSchema": {"json": parameters_of(tool)}}


def _choice(choice: ToolChoice) -> dict[str, Any]:
    if choice.name:
        return {"tool": {"name": choice.name}}
    return {"any": {}} if choice.mode == "required" else {"auto": {}}
