"""Calls a server in the OpenAI dialect. Each answer is checked against the schema in `open_responses.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

from support import asgi
from support.in_process_server import CalledServer

Document = dict[str, Any]
SCHEMA: Document = json.loads(Path(__file__).with_name("open_responses.json").read_text(encoding="utf-8"))
_KINDS = {
    "response": "response",
    "chat.completion": "chatCompletion",
    "chat.completion.chunk": "chatChunk",
    "conversation": "conversation",
    "model": "model",
}
_UNCHECKED = ("response.input_tokens", "conversation.deleted")


@cache
def _validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{kind}"})


def check(document: Any, kind: str) -> None:
    """Fail unless a document follows the schema of its kind."""
    faults = [f"{'/'.join(map(str, f.instance_path))}: {f.message}" for f in _validator(kind).iter_errors(document)]
    assert faults == []


def checked(document: Document) -> Document:
    """Return a document whose kind is its `object`; fail unless it follows the schema."""
    kind = document["object"]
    if kind == "list":
        for entry in document["data"]:
            check(entry, "model" if entry.get("object") == "model" else "item")
        if "first_id" in document:
            check(document, "itemList")
    elif document.get("deleted") is not True and kind not in _UNCHECKED:
        check(document, _KINDS[kind])
    return document


def answered(answer: asgi.Answer) -> Document:
    """Return the document of an answer that is not an error."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    return checked(json.loads(answer.body))


def refused(answer: asgi.Answer) -> Document:
    """Return the `error` of an answer; its sentence also stands in `detail`."""
    assert answer.status >= 400, answer.body
    assert answer.headers["content-type"] == "application/json"
    document = json.loads(answer.body)
    check(document, "error")
    error: Document = document["error"]
    assert error["message"] == document["detail"]
    return error


def post(server: CalledServer, path: str, body: object, **headers: str) -> asgi.Answer:
    return server.post(body, f"/v1/{path}", **headers)


def get(server: CalledServer, path: str, **headers: str) -> asgi.Answer:
    return server.get(f"/v1/{path}", **headers)


def events(body: bytes) -> list[Document]:
    """Return the events of a Response's stream. The lines of each must agree, and the numbers must grow by 1.

    The event that breaks a stream off repeats the number before it.
    """
    found = [_event(frame) for frame in _frames(body)]
    for event in found:
        check(event, "event")
    numbers = [event["sequence_number"] for event in found]
    if len(numbers) > 1 and was_broken_off(found):
        assert numbers.pop() == numbers[-1]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    return found


def was_broken_off(found: Sequence[Document]) -> bool:
    """Return whether a stream ended before its task did."""
    return found[-1]["type"] == "response.incomplete" and "go_on" in found[-1]["response"]["llm_server"]


def _event(frame: Mapping[str, str]) -> Document:
    document: Document = json.loads(frame["data"])
    assert (frame["event"], int(frame["id"])) == (document["type"], document["sequence_number"])
    return document


def chunks(body: bytes) -> list[Document]:
    """Return the chunks of a chat completion's stream, without its end; an error among them is returned, too."""
    frames = _frames(body)
    assert frames[-1] == {"data": "[DONE]"}
    found = [json.loads(frame["data"]) for frame in frames[:-1]]
    for document in found:
        check(document, "error" if "error" in document else "chatChunk")
    return found


def _frames(body: bytes) -> list[dict[str, str]]:
    """Return the frames of a stream without its comments."""
    assert body.endswith(b"\n\n")
    texts = [text for text in body.decode().split("\n\n") if text and not text.startswith(":")]
    return [dict(line.split(": ", 1) for line in text.split("\n")) for text in texts]


def text_of(events: Iterable[Document]) -> str:
    """Return the text that the deltas of the last message have together."""
    pieces: list[str] = []
    for event in events:
        if event["type"] == "response.content_part.added":
            pieces.clear()
        elif event["type"] == "response.output_text.delta":
            pieces.append(event["delta"])
    return "".join(pieces)
