"""Adapter for Anthropic's Messages API (https://platform.claude.com/docs/en/api/messages)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_server.engines.answer_schemas import for_api
from llm_server.engines.forms.messages import messages, tool_calls, tool_fields
from llm_server.engines.http import HttpWire
from llm_server.engines.parts import EngineParts
from llm_server.engines.streams.messages import MessagesStream
from llm_server.engines.usage import messages_usage
from llm_server.engines.wire import (
    completion,
    join_texts,
    json_objects,
    missing_completion,
    refusal,
)
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall

VERSION = "2023-06-01"
_TRUNCATED = frozenset({"max_tokens", "model_context_window_exceeded"})


def build(name: str, parts: EngineParts) -> Engine:
    """Build the engine with this name; its API key is looked up at each call."""
    return AnthropicEngine(parts.spec(name), parts.pool, parts.api_key(name))


class AnthropicEngine(HttpWire):
    """An engine with a Messages API."""

    path = "/v1/messages"

    def _assembly(self) -> MessagesStream:
        return MessagesStream()

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    def _body(self, call: EngineCall) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._spec.model,
            "max_tokens": call.max_output_tokens,
            "messages": messages(call),
            **tool_fields(call),
        }
        if call.on_text is not None:
            body["stream"] = True
        if call.system:
            body["system"] = call.system
        if self._spec.send_temperature:
            body["temperature"] = min(call.temperature, 1.0)
        if self._spec.stop_texts:
            body["stop_sequences"] = list(self._spec.stop_texts)
        if call.answer_schema:
            schema = for_api(call.answer_schema, self._spec)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return body

    def _read(self, call: EngineCall, answer: dict[str, Any]) -> Completion:
        content, stop_reason = answer.get("content"), answer.get("stop_reason")
        usage = messages_usage(answer)
        if stop_reason == "refusal":
            raise refusal(usage)
        if not isinstance(content, list):
            raise missing_completion()
        blocks = json_objects(content)
        text = join_texts([block for block in blocks if block.get("type") == "text"])
        return completion(call, text, usage, truncated=stop_reason in _TRUNCATED, tool_calls=tool_calls(blocks))
