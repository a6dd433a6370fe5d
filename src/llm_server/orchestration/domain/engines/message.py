"""What an engine is sent beside its system prompt: messages, with images and function calls, and function tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

Speaker = Literal["user", "assistant", "tool"]


class Image(Struct, frozen=True, kw_only=True):
    """An image: its media type, such as `image/png`, and its bytes in base64, or the URL where the engine finds it."""

    media_type: str = ""
    data: str = ""
    url: str = ""


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call of a function that a model asks for. `arguments` is the JSON text that the model wrote."""

    call_id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, kw_only=True):
    """One message of a conversation.

    Only a user's message has `images`, and only an assistant's has `tool_calls`. The message of a `tool` is the result
    of the function call `tool_call_id`.
    """

    role: Speaker
    text: str = ""
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def texts(self) -> str:
        """Everything in the message that a model reads as text."""
        if not self.tool_calls:
            return self.text
        return "".join([self.text, *(call.name + call.arguments for call in self.tool_calls)])


class Tool(Struct, frozen=True, kw_only=True):
    """A function that a model may ask the caller to call. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Struct, frozen=True, kw_only=True):
    """Whether the model may or must ask for a function call; `name` is the function that it must ask for."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str = ""


def user(prompt: str) -> tuple[Message, ...]:
    """Return the messages of a conversation that begins with this prompt."""
    return (Message(role="user", text=prompt),)
