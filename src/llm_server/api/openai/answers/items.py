"""The items of a response: what a task was sent as its input, and what it answers as its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from llm_server.api.openai import ids
from llm_server.orchestration.domain.engines.message import Image, Message, ToolCall, user
from llm_server.orchestration.domain.snapshot import Request

Document = dict[str, Any]
Progress = Literal["in_progress", "completed", "incomplete"]


def text_part(text: str) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message(item_id: str, parts: Sequence[Document], status: Progress = "completed") -> Document:
    """Return a message of the assistant."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": list(parts)}


def function_call(task_id: str, index: int, call: ToolCall, status: Progress = "completed") -> Document:
    """Return a function call that the answer asks for; `index` counts those of one answer from 0."""
    return {
        "id": f"fc_{task_id}_{index}",
        "type": "function_call",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def output(
    task_id: str, text: str | None, calls: Sequence[ToolCall], status: Progress, *, message_id: str = ""
) -> list[Document]:
    """Return the items of an answer: its message, unless it has only function calls, and these."""
    found = list[Document]()
    if text or (text is not None and not calls):
        found.append(message(message_id or ids.message(task_id), [text_part(text)], status))
    return found + [function_call(task_id, index, call) for index, call in enumerate(calls)]


def input_of(task_id: str, request: Request) -> list[Document]:
    """Return the items of a task's input, in the order in which they were sent."""
    messages = request.messages or user(request.prompt)
    items = (item for message in messages for item in _items(message))
    return [{"id": f"{_PREFIXES[item['type']]}_{task_id}_in{n}", **item} for n, item in enumerate(items)]


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


def _items(message: Message) -> Iterator[Document]:
    if message.role == "tool":
        answered = {"call_id": message.tool_call_id, "output": message.text}
        yield {"type": "function_call_output", **answered, "status": "completed"}
        return
    if message.role == "user":
        yield {"type": "message", "role": "user", "status": "completed", "content": list(_input_parts(message))}
    elif message.text or not message.tool_calls:
        content = [text_part(message.text)]
        yield {"type": "message", "role": "assistant", "status": "completed", "content": content}
    for call in message.tool_calls:
        named = {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        yield {"type": "function_call", **named, "status": "completed"}


def _input_parts(message: Message) -> Iterator[Document]:
    if message.text or not message.images:
        yield {"type": "input_text", "text": message.text}
    for image in message.images:
        yield {"type": "input_image", "image_url": _url(image), "file_id": None, "detail": "auto"}


def _url(image: Image) -> str:
    return image.url or f"data:{image.media_type};base64,{image.data}"


def page(items: Iterable[Document], *, after: str | None, limit: int, newest_first: bool) -> Document:
    """Return one page of items that are given in the order in which they came.

    An `after` that is not among them gives an empty page.
    """
    ordered = list(items)
    if newest_first:
        ordered.reverse()
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        ordered = ordered[places[0] + 1 :] if places else []
    shown = ordered[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else "",
        "last_id": shown[-1]["id"] if shown else "",
        "has_more": len(ordered) > limit,
    }
