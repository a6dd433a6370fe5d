"""Read the stream of Anthropic's Messages (https://platform.claude.com/docs/en/build-with-claude/streaming)."""

from __future__ import annotations

from typing import Any

from llm_server.engines.streams.assembly import Pieces, failed, not_an_event
from llm_server.engines.streams.sse import ServerSentEvent
from llm_server.engines.usage import ReportedUsage, messages_usage, without_output
from llm_server.engines.wire import decoded_object, json_object

_OUTAGES = frozenset({"overloaded_error", "rate_limit_error"})


class MessagesStream(Pieces):
    """The events of a message. `message_start` has the tokens of the input, `message_delta` those of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False
        self._stop_reason: Any = None
        self._usage: dict[str, Any] = {}

    @property
    def is_finished(self) -> bool:
        return self._stop_reason is not None

    def take(self, event: ServerSentEvent) -> str:
        fields = decoded_object(event.data)
        match fields.get("type"):
            case "message_start":
                self._usage.update(json_object(json_object(fields.get("message")).get("usage")))
            case "content_block_start":
                return self._begin_block(_index(fields), json_object(fields.get("content_block")))
            case "content_block_delta":
                return self._take_delta(_index(fields), json_object(fields.get("delta")))
            case "message_delta":
                self._stop_reason = json_object(fields.get("delta")).get("stop_reason") or self._stop_reason
                told = json_object(fields.get("usage"))
                self._usage.update({name: count for name, count in told.items() if count is not None})
            case "message_stop":
                self.is_over = True
            case "error":
                raise failed(outage=json_object(fields.get("error")).get("type") in _OUTAGES)
        return ""

    def answer(self) -> dict[str, Any]:
        calls = [
            {"type": "tool_use", "id": call.call_id, "name": call.name, "input": call.arguments}
            for call in self.calls.values()
        ]
        content = [{"type": "text", "text": self.text}, *calls]
        return {"content": content, "stop_reason": self._stop_reason, "usage": self._usage}

    def usage(self) -> ReportedUsage:
        usage = messages_usage({"usage": self._usage})
        return usage if self.is_finished else without_output(usage)

    def _begin_block(self, index: int, block: dict[str, Any]) -> str:
        if block.get("type") == "tool_use":
            self.call(index).add(call_id=block.get("id"), name=block.get("name"), arguments=block.get("input"))
        return self.add(block.get("text")) if block.get("type") == "text" else ""

    def _take_delta(self, index: int, delta: dict[str, Any]) -> str:
        match delta.get("type"):
            case "text_delta":
                return self.add(delta.get("text"))
            case "input_json_delta":
                self.call(index).add(arguments=delta.get("partial_json"))
        return ""


def _index(fields: dict[str, Any]) -> int:
    index = fields.get("index")
    if not isinstance(index, int):
        raise not_an_event()
    return index
