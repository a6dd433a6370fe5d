"""Adapter for the Chat Completions API (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llm_server.engines.answer_schemas import for_api, is_strict
from llm_server.engines.connections import EnginePool
from llm_server.engines.failures import BadRequest, failure_of_status
from llm_server.engines.forms.chat import messages, tool_calls, tool_fields
from llm_server.engines.http import HttpWire
from llm_server.engines.parts import EngineParts
from llm_server.engines.streams.chat import ChatStream
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
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import EngineUnavailable


def build(name: str, parts: EngineParts) -> Engine:
    """Build the engine with this name; its API key is looked up at each call."""
    return OpenAIEngine(parts.spec(name), parts.pool, parts.api_key(name))


class OpenAIEngine(HttpWire):
    """An engine with a Chat Completions API.

    Not every server takes the option that a stream ends with its usage. If a server answers the first stream with "bad
    request", the call is made once more without the option; if that succeeds, the option is not used again.
    """

    path = "/chat/completions"
    has_json_object = True

    def __init__(self, spec: EngineSpec, pool: EnginePool, api_key: Callable[[], str | None]) -> None:
        super().__init__(spec, pool, api_key)
        self._usage_option: bool | None = None  # None until a stream has shown whether the server takes it

    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        if call.on_text is None or self._usage_option is not None:
            return super()._ask(call, timeout_s)
        started_s = time.monotonic()
        try:
            completion = super()._ask(call, timeout_s)
        except BadRequest:
            completion = self._without_option()._ask(call, timeout_s - (time.monotonic() - started_s))
            self._usage_option = False
        else:
            self._usage_option = True
        return completion

    def _without_option(self) -> OpenAIEngine:
        other = OpenAIEngine(self._spec, self._pool, self._api_key)
        other._usage_option = False
        return other

    def _assembly(self) -> ChatStream:
        return ChatStream()

    def _headers(self, key: str | None) -> Mapping[str, str]:
        return {"authorization": f"Bearer {key}"} if key else {}

    def _body(self, call: EngineCall) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._spec.model,
            "messages": messages(call),
            self._spec.max_tokens_field: call.max_output_tokens,
            **tool_fields(call),
        }
        if call.on_text is not None:
            body["stream"] = True
            if self._usage_option is not False:
                body["stream_options"] = {"include_usage": True}
        if self._spec.send_temperature:
            body["temperature"] = call.temperature
        if self._spec.stop_texts:
            body["stop"] = list(self._spec.stop_texts)
        if call.answer_schema:
            schema = for_api(call.answer_schema, self._spec)
            named = {"name": call.answer_schema.name, "strict": is_strict(call.answer_schema), "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif call.json_object:
            body["response_format"] = {"type": "json_object"}
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
        return completion(call, text, usage, truncated=finish_reason == "length", tool_calls=tool_calls(message))
