"""A Completed task as a chat completion, and its stream of chunks."""

from __future__ import annotations

from typing import Any

from llm_server.api.openai import ids
from llm_server.api.openai.answers import receipt
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.snapshot import Snapshot

Document = dict[str, Any]


def completion(snapshot: Snapshot, model: str) -> Document:
    """Return the chat completion of a Completed task; `model` is the one that the caller asked for."""
    task, calls = snapshot.task, snapshot.tool_calls
    text = snapshot.result or ""
    message: Document = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {
        "id": ids.chat(task.task_id),
        "object": "chat.completion",
        "created": task.created_ms // 1000,
        "model": task.engine or model,
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(snapshot)},
        ],
        "usage": receipt.chat_usage(snapshot),
        "service_tier": "default",
        "system_fingerprint": None,
        "receipt": receipt.receipt(snapshot),
        "llm_server": receipt.decision(snapshot),
    }


def finish_reason(snapshot: Snapshot) -> str:
    """Return why the answer of a Completed task ends."""
    if snapshot.is_truncated:
        return "length"
    return "tool_calls" if snapshot.tool_calls else "stop"


class Chunks:
    """Writes the chunks of one stream."""

    def __init__(self, task_id: str, created_ms: int, model: str, *, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._shared: Document = {
            "id": ids.chat(task_id),
            "object": "chat.completion.chunk",
            "created": created_ms // 1000,
            "model": model,
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def begin(self) -> Document:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def text(self, text: str) -> Document:
        return self._chunk({"content": text})

    def end(self, snapshot: Snapshot) -> list[Document]:
        """Return the last chunks of a Completed task: its function calls, why it ends, and what it used."""
        calls = [{"index": index, **_call(call)} for index, call in enumerate(snapshot.tool_calls)]
        found = [self._chunk({"tool_calls": calls})] if calls else []
        found.append(self._chunk({}, finish_reason(snapshot)))
        if self._with_usage:
            extra = {"receipt": receipt.receipt(snapshot), "llm_server": receipt.decision(snapshot)}
            found.append(self._document([], receipt.chat_usage(snapshot)) | extra)
        return found

    def _chunk(self, delta: Document, finish_reason: str | None = None) -> Document:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._document([choice], None)

    def _document(self, choices: list[Document], usage: Document | None) -> Document:
        return {**self._shared, "choices": choices, **({"usage": usage} if self._with_usage else {})}


def _call(call: ToolCall) -> Document:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
