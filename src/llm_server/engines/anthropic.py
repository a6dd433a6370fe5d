"""Anthropic's Messages API, and servers that speak it (https://platform.claude.com/docs/en/api/messages)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_server.engines.http import EnginePool, exchange
from llm_server.engines.wire import Wire, completion, count, declined, no_completion, record, records, without_bounds
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.engine_call import Completion, EngineCall

VERSION = "2023-06-01"
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})
_IN = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicEngine(Wire):
    """`base_url` is the address before `/v1/messages`; `api_key` is asked at each call, None is none."""

    def __init__(self, spec: EngineSpec, pool: EnginePool, api_key: Callable[[], str | None]) -> None:
        super().__init__(schema_field=spec.json_schema)
        self._spec = spec
        self._pool = pool
        self._api_key = api_key
        self._url = f"{(spec.base_url or '').rstrip('/')}/v1/messages"

    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        key = self._api_key()
        answer = exchange(
            self._pool,
            "POST",
            self._url,
            headers={"anthropic-version": VERSION, **({"x-api-key": key} if key else {})},
            body=self._body(call),
            private=(call.prompt, key or ""),
            timeout_s=timeout_s,
            cancellation=call.cancellation,
        )
        return _read(call, answer)

    def _body(self, call: EngineCall) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._spec.model,
            "max_tokens": call.max_output_tokens,
            "messages": [{"role": "user", "content": call.prompt}],
        }
        if call.system:
            body["system"] = call.system
        if self._spec.send_temperature:
            body["temperature"] = min(call.temperature, 1.0)
        if call.answer_schema:
            schema = without_bounds(call.answer_schema.schema)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return body


def _read(call: EngineCall, answer: dict[str, Any]) -> Completion:
    content, ended = answer.get("content"), answer.get("stop_reason")
    usage = record(answer.get("usage"))
    if ended == "refusal":
        raise declined(_sum(usage), count(usage.get("output_tokens")))
    if not isinstance(content, list):
        raise no_completion()
    texts = (block.get("text") for block in records(content) if block.get("type") == "text")
    return completion(
        call,
        "".join(text for text in texts if isinstance(text, str)),
        tokens_in=_sum(usage),
        tokens_out=count(usage.get("output_tokens")),
        truncated=ended in _CUT,
    )


def _sum(usage: Mapping[str, Any]) -> int | None:
    """What was read from a cache is left out of `input_tokens`, and counts here like the rest."""
    if count(usage.get("input_tokens")) is None:
        return None
    return sum(count(usage.get(name)) or 0 for name in _IN)
