"""Images, function tools and calls, as tests send them and engines answer with them."""

from __future__ import annotations

from base64 import b64encode
from random import Random

from llm_server.orchestration.domain.engines.call import Completion
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall
from support.scripted_engine import a_usage

PNG = b"\x89PNG\r\n\x1a\n"
WEATHER = Tool(name="get_weather", description="Tells the weather.", parameters={"type": "object"})


def an_image(size: int = 100, seed: int = 0) -> Image:
    """Return a PNG image of so many bytes, which cannot be compressed. It has no picture in it."""
    return Image(media_type="image/png", data=b64encode(PNG + Random(seed).randbytes(size - len(PNG))).decode())


def with_images(prompt: str, *images: Image) -> tuple[Message, ...]:
    """Return the messages of a prompt with images; without any, it has one."""
    return (Message(role="user", text=prompt, images=images or (an_image(),)),)


def a_call(call_id: str = "c1", arguments: str = '{"city":"Paris"}') -> ToolCall:
    return ToolCall(call_id=call_id, name=WEATHER.name, arguments=arguments)


def asking(*calls: ToolCall, text: str = "") -> Completion:
    """Return an answer that asks for function calls."""
    return Completion(text=text, usage=a_usage(), tool_calls=calls or (a_call(),))


def a_result(call_id: str = "c1", output: str = "18 degrees") -> Message:
    return Message(role="tool", text=output, tool_call_id=call_id)
