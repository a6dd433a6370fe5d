"""Read the stream of Chat Completions (https://platform.openai.com/docs/api-reference/chat-streaming)."""

from __future__ import annotations

from typing import Any

from llm_server.engines.failures import failure_of_status
from llm_server.engines.streams.assembly import Pieces, StreamedCall, failed
from llm_server.engines.streams.sse import ServerSentEvent
from llm_server.engines.usage import ReportedUsage, chat_usage, without_output
from llm_server.engines.wire import decoded_object, join_texts, json_object, json_objects

_DONE = "[DONE]"


class ChatStream(Pieces):
    """The chunks of a completion. Its last choice's chunk has a `finish_reason`; the usage follows, then `[DONE]`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False
        self._finish_reason: Any = None
        self._refusal = ""
        self._counts: dict[str, Any] = {}

    @property
    def is_finished(self) -> bool:
        return self._finish_reason is not None

    def take(self, event: ServerSentEvent) -> str:
        if event.data == _DONE:
            self.is_over = True
            return ""
        chunk = decoded_object(event.data)
        if chunk.get("error"):
            raise self._failure(chunk["error"])
        self._counts.update({name: chunk[name] for name in ("usage", "timings") if chunk.get(name)})
        piece = ""
        for choice in json_objects(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                piece += self._take_delta(json_object(choice.get("delta")))
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return piece

    def answer(self) -> dict[str, Any]:
        calls = [
            {"id": call.call_id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls.values()
        ]
        message = {"content": self.text, "refusal": self._refusal, "tool_calls": calls}
        return {"choices": [{"message": message, "finish_reason": self._finish_reason}], **self._counts}

    def usage(self) -> ReportedUsage:
        usage = chat_usage(self._counts)
        return usage if self.is_finished else without_output(usage)

    def _take_delta(self, delta: dict[str, Any]) -> str:
        if isinstance(delta.get("refusal"), str):
            self._refusal += delta["refusal"]
        for part in json_objects(delta.get("tool_calls")):
            function = json_object(part.get("function"))
            call = self._call_of(part)
            call.add(call_id=part.get("id"), name=function.get("name"), arguments=function.get("arguments"))
        content = delta.get("content")
        return self.add(content if isinstance(content, str) else join_texts(content))

    def _call_of(self, part: dict[str, Any]) -> StreamedCall:
        """Return the call that a part belongs to.

        Some servers give no index, or the same to each call; a part with another id then begins a call.
        """
        index, last = part.get("index"), max(self.calls, default=-1)
        key = index if isinstance(index, int) else last
        call = self.calls.get(key)
        begins = call is None or (part.get("id") and call.call_id and part["id"] != call.call_id)
        if call is not None and begins:
            later = [self.calls[other] for other in self.calls if self.calls[other].call_id == part["id"]]
            return later[0] if later else self.call(last + 1)
        return self.call(max(key, 0))

    def _failure(self, error: Any) -> Exception:
        """Return the failure that an error in the stream stands for.

        Some gateways (OpenRouter) begin a stream before they know that the call failed, and put its status into it.
        """
        status = json_object(error).get("code")
        if isinstance(status, int) and 400 <= status < 600 and not self.has_begun:
            return failure_of_status(status)
        return failed()
