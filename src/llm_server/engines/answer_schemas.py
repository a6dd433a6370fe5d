"""The schemas of structured answers: without the keywords that an API refuses, or as text in the system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec

_LENGTHS = frozenset({"minLength", "maxLength"})
_BOUNDS = _LENGTHS | {"minItems", "maxItems", "minimum", "maximum", "pattern"}


def for_api(schema: AnswerSchema, spec: EngineSpec) -> Any:
    """Return the schema that can be sent to this engine. What it leaves out is checked when the answer is read.

    - OpenAI's structured outputs (`strict`) support `pattern`, `minItems` and `maxItems`, but not the length of texts
      (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas).
    - Anthropic's, also on Bedrock, support neither lengths nor `maxItems`, and only simple patterns
      (https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations). An
      unsupported keyword is answered with 400, so all bounds are left out.
    - Local servers that speak Chat Completions (llama.cpp, Ollama, vLLM) make a grammar of all of them.
    """
    if spec.kind in ("anthropic", "bedrock"):
        return _without(schema.schema, _BOUNDS)
    return schema.schema if spec.source == "local" else _without(schema.schema, _LENGTHS)


def in_text(call: EngineCall) -> EngineCall:
    """Return the call with its schema in the system prompt, for an engine that does not take it as a field."""
    if call.answer_schema is None:
        return call
    schema = msgspec.json.encode(call.answer_schema.schema).decode()
    demand = f"Answer with one JSON object and nothing else. It follows this JSON schema:\n{schema}"
    return replace(call, system=f"{call.system}\n\n{demand}".lstrip(), answer_schema=None)


def _without(schema: Any, keywords: frozenset[str]) -> Any:
    """Return a schema without these keywords."""
    if isinstance(schema, list | tuple):
        return [_without(item, keywords) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    stripped = {}
    for key, value in schema.items():
        if key == "properties":  # its keys are field names, and a field may be named like a keyword
            stripped[key] = {name: _without(field, keywords) for name, field in value.items()}
        elif key not in keywords:
            stripped[key] = _without(value, keywords)
    return stripped
