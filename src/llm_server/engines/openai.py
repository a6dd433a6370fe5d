"""Adapter for the Chat Completions API (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_server.engines.answer_schemas import for_api
from llm_server.engines.failures import failure_of_status
from llm_server.engines.http import HttpWire
from llm_server.engines.parts import EngineParts
from llm_server.engines.usage import chat_usage
from llm_server.engines.wire import (
    completion,
    join_texts,
    json_object,
    json_objects,
    missing_completion,
    refusal,
)
from llm_server.orchestration.domain.engines.call import Completion, Engine, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable


def build(name: str, parts: EngineParts) -> Engine:
    """Build the engine with this name; its API key is looked up at each call."""
    return OpenAIEngine(parts.spec(name), parts.pool, parts.api_key(name))


class OpenAIEngine(HttpWire):
    """An engine with a Chat Completions API."""

    path = "/chat/completions"

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {"authorization": f"Bearer {key}"} if key else {}

    def _body(self, call: EngineCall) -> dict[str, Any]:
        system = [{"role": "system", "content": call.system}] if call.system else []
        body: dict[str, Any] = {
            "model": self._spec.model,
            "messages": [*system, {"role": "user", "content": call.prompt}],
            self._spec.max_tokens_field: call.max_output_tokens,
        }
        if self._spec.send_temperature:
            body["temperature"] = call.temperature
        if self._spec.stop_texts:
            body["stop"] = list(self._spec.stop_texts)
        if call.answer_schema:
            schema = for_api(call.answer_schema, self._spec)
            named = {"name": call.answer_schema.name, "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self._spec.repetition_penalty:  # not with a schema: JSON repeats its quotes and field names
            body["repeat_penalty"] = self._spec.repetition_penalty
        return body

    def _read(self, call: EngineCall, answer: dict[str, Any]) -> Completion:
        """Return the completion in an engine's response.

        Some gateways (OpenRouter) answer a failed call with 200 and put its status in the body.
        """
        choices = json_objects(answer.get("choices"))
        if not choices:
            status = json_object(answer.get("error")).get("code")
            if isinstance(status, int) and 400 <= status < 600:
                raise failure_of_status(status)
            raise missing_completion()
        message, finish_reason = json_object(choices[0].get("message")), choices[0].get("finish_reason")
        content = message.get("content")
        text = content if isinstance(content, str) else join_texts(content)
        usage = chat_usage(answer)
        if finish_reason == "content_filter" or (message.get("refusal") and not text):
            raise refusal(usage)
        if finish_reason == "error":
            raise EngineUnavailable("The engine failed while it answered.", may_be_billed=True)
        return completion(call, text, usage, truncated=finish_reason == "length")
