"""The streams of the fake engine: its whole answer as the events of Chat Completions, Messages or Converse.

A change of the whole answer, such as another reason for its end, so also changes the stream.
"""

import json
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32


class Event(NamedTuple):
    """The bytes of one event, and whether it has a piece of text."""

    data: bytes
    is_text: bool = False


def content_type(path: str) -> str:
    return "application/vnd.amazon.eventstream" if path.startswith("/model/") else "text/event-stream"


def events(path: str, asked: Any, answer: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[Event]:
    """Return the events of an answer, its text in `pieces`, or else in words."""
    if path == "/v1/messages":
        return _messages(answer, pieces)
    return _converse(answer, pieces) if path.startswith("/model/") else _chat(asked, answer, pieces)


def text_event(path: str, text: str) -> bytes:
    """Return an event with a piece of text."""
    if path == "/v1/messages":
        return _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    if path.startswith("/model/"):
        return frame("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0})
    return _chunk({"content": text})


def sign_of_life(path: str) -> bytes:
    """Return what an API sends to keep a connection alive."""
    return text_event(path, "") if path.startswith("/model/") else b": keep-alive\n\n"


def garbage(path: str) -> bytes:
    """Return an event that is not JSON."""
    if path.startswith("/model/"):
        return frame("contentBlockDelta", b"{not json")
    return b"event: content_block_delta\ndata: {not json\n\n"


def error_event(path: str) -> bytes:
    """Return the event with which an API says that it failed."""
    if path == "/v1/messages":
        return _named("error", error={"type": "overloaded_error", "message": "Overloaded"})
    if path.startswith("/model/"):
        return frame("modelStreamErrorException", {"message": "scripted"}, kind="exception")
    return _data({"error": {"message": "scripted", "type": "server_error", "code": None}})


def frame(name: str, payload: Any, *, kind: str = "event") -> bytes:
    """Return a message of AWS's event stream: lengths, headers, JSON, and two checksums."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    named = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in named.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + data
    return message + struct.pack(">I", crc32(message))


def _pieces(text: Any, pieces: Sequence[str] | None) -> Sequence[str]:
    if not isinstance(text, str):
        return ()
    return re.findall(r"\s*\S+\s*\Z|\s*\S+|\s+", text) if pieces is None else pieces


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def _data(fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()


def _chunk(delta: Any, finish_reason: Any = None) -> bytes:
    return _data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def _chat(asked: Any, answer: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[Event]:
    yield Event(_chunk({"role": "assistant", "content": ""}))
    for choice in answer.get("choices") or ():
        message = choice["message"]
        for piece in _pieces(message.get("content"), pieces):
            yield Event(_chunk({"content": piece}), is_text=True)
        if message.get("refusal"):
            yield Event(_chunk({"refusal": message["refusal"]}))
        for index, call in enumerate(message.get("tool_calls", ())):
            function = call["function"]
            yield Event(_chunk({"tool_calls": [{"index": index, **call, "function": {**function, "arguments": ""}}]}))
            for part in _halves(function["arguments"]):
                yield Event(_chunk({"tool_calls": [{"index": index, "function": {"arguments": part}}]}))
        yield Event(_chunk({}, choice["finish_reason"]))
    rest = {key: value for key, value in answer.items() if key != "choices"}
    if not asked.get("stream_options", {}).get("include_usage"):
        rest.pop("usage", None)
    if rest:
        yield Event(_data({"choices": [], **rest}))
    yield Event(b"data: [DONE]\n\n")


def _named(name: str, **fields: Any) -> bytes:
    return b"event: %b\n%b" % (name.encode(), _data({"type": name, **fields}))


def _messages(answer: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[Event]:
    usage = answer.get("usage")
    first = {**usage, "output_tokens": 1} if usage else usage
    yield Event(_named("message_start", message={**answer, "content": [], "stop_reason": None, "usage": first}))
    for index, block in enumerate(answer.get("content") or ()):
        if block["type"] == "text":
            yield Event(_named("content_block_start", index=index, content_block={**block, "text": ""}))
            yield Event(_named("ping"))
            for piece in _pieces(block["text"], pieces):
                delta = {"type": "text_delta", "text": piece}
                yield Event(_named("content_block_delta", index=index, delta=delta), is_text=True)
        else:
            yield Event(_named("content_block_start", index=index, content_block={**block, "input": {}}))
            for part in _halves(json.dumps(block["input"])):
                delta = {"type": "input_json_delta", "partial_json": part}
                yield Event(_named("content_block_delta", index=index, delta=delta))
        yield Event(_named("content_block_stop", index=index))
    told = {name: count for name, count in (usage or {}).items() if "output" in name}
    yield Event(_named("message_delta", delta={"stop_reason": answer.get("stop_reason")}, usage=told))
    yield Event(_named("message_stop"))


def _converse(answer: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[Event]:
    yield Event(frame("messageStart", {"role": "assistant"}))
    for index, block in enumerate(answer.get("output", {}).get("message", {}).get("content") or ()):
        if use := block.get("toolUse"):
            start = {"toolUse": {"toolUseId": use.get("toolUseId"), "name": use.get("name")}}
            yield Event(frame("contentBlockStart", {"start": start, "contentBlockIndex": index}))
            for part in _halves(json.dumps(use["input"])):
                delta: Any = {"toolUse": {"input": part}}
                yield Event(frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": index}))
        for piece in _pieces(block.get("text"), pieces):
            delta = {"text": piece}
            yield Event(frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": index}), is_text=True)
        yield Event(frame("contentBlockStop", {"contentBlockIndex": index}))
    yield Event(frame("messageStop", {"stopReason": answer.get("stopReason")}))
    if usage := answer.get("usage"):
        yield Event(frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
