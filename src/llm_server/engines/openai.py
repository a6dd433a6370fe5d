"""Chat Completions: OpenAI and every server that speaks it (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_server.engines.failures import of_status
from llm_server.engines.http import EnginePool, exchange
from llm_server.engines.wire import Wire, completion, count, declined, no_completion, record, records
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.engine_call import Completion, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable


class OpenAIEngine(Wire):
    """`base_url` is the address before `/chat/completions`; `api_key` is asked at each call, None is none."""

    def __init__(self, spec: EngineSpec, pool: EnginePool, api_key: Callable[[], str | None]) -> None:
        super().__init__(schema_field=spec.json_schema)
        self._spec = spec
        self._pool = pool
        self._api_key = api_key
        self._url = f"{(spec.base_url or '').rstrip('/')}/chat/completions"

    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        key = self._api_key()
        answer = exchange(
            self._pool,
            "POST",
            self._url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            body=self._body(call),
            private=(call.prompt, key or ""),
            timeout_s=timeout_s,
            cancellation=call.cancellation,
        )
        return _read(call, answer)

    def _body(self, call: EngineCall) -> dict[str, Any]:
        system = [{"role": "system", "content": call.system}] if call.system else []
        body: dict[str, Any] = {
            "model": self._spec.model,
            "messages": [*system, {"role": "user", "content": call.prompt}],
            self._spec.max_tokens_field: call.max_output_tokens,
        }
        if self._spec.send_temperature:
            body["temperature"] = call.temperature
        if call.answer_schema:
            held_to = {"name": call.answer_schema.name, "strict": True, "schema": call.answer_schema.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": held_to}
        return body


def _read(call: EngineCall, answer: dict[str, Any]) -> Completion:
    """Read an answer. A gateway (OpenRouter) reports failures under HTTP 200, with the status inside."""
    choice = next(iter(records(answer.get("choices"))), None)
    if choice is None:
        status = count(record(answer.get("error")).get("code"))
        if status and 400 <= status < 600:
            raise of_status(status)
        raise no_completion()
    message, ended = record(choice.get("message")), choice.get("finish_reason")
    text = _text(message.get("content"))
    usage = record(answer.get("usage"))
    tokens_in, tokens_out = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if ended == "content_filter" or (message.get("refusal") and not text):
        raise declined(tokens_in, tokens_out)
    if ended == "error":
        raise EngineUnavailable("The engine failed while it answered.", may_be_billed=True)
    return completion(
        call,
        text,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        truncated=ended == "length",
    )


def _text(content: Any) -> str:
    """The content is a text, nothing, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in records(content) if isinstance(part.get("text"), str))
