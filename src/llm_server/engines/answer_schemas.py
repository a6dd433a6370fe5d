"""The schemas of structured answers: without the keywords that an API refuses, or as text in the system prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec

_LENGTHS = frozenset({"minLength", "maxLength"})
_MAPS = frozenset({"properties", "$defs", "definitions"})
_PLAIN = frozenset({"type", "enum", "const", "required", "$ref", "title", "description", "default", "format"})
_STRICT = frozenset(
    {"type", "enum", "const", "required", "$ref", "title", "description", "properties", "additionalProperties", "$defs"}
    | {"anyOf", "items", "pattern", "minItems", "maxItems", "minimum", "maximum", "multipleOf"}
)
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
    if schema.is_callers:
        return _callers(schema.schema, spec)
    if spec.kind in ("anthropic", "bedrock"):
        return _without(schema.schema, _BOUNDS)
    return schema.schema if spec.source == "local" else _without(schema.schema, _LENGTHS)


def is_strict(schema: AnswerSchema) -> bool:
    """Return whether OpenAI accepts the schema that `for_api` returned with `strict`; it refuses any other with 400.

    The schemas of the server are made to be accepted. A caller's must have an object at its root, close each object,
    require each of its properties, and use no other keywords than these
    (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas).
    """
    return not schema.is_callers or (schema.schema.get("type") == "object" and _is_strict(schema.schema))


def demands_object(call: EngineCall) -> bool:
    """Return whether each answer to the call must be a JSON object."""
    return call.answer_schema is not None and call.answer_schema.schema.get("type") == "object"


def in_text(call: EngineCall, *, json_object: bool = False) -> EngineCall:
    """Return the call with its schema in the system prompt, for an engine that does not take it as a field.

    `json_object`: the API's own demand for a JSON object is sent, too.
    """
    if call.answer_schema is None:
        return call
    schema = msgspec.json.encode(call.answer_schema.schema).decode()
    kind = "value" if call.answer_schema.is_callers else "object"
    demand = f"Answer with one JSON {kind} and nothing else. It follows this JSON schema:\n{schema}"
    return replace(call, system=f"{call.system}\n\n{demand}".lstrip(), answer_schema=None, json_object=json_object)


def _callers(schema: Mapping[str, Any], spec: EngineSpec) -> Any:
    """Return a caller's schema as this API takes it; OpenAI without `strict` and local servers take any."""
    if spec.kind not in ("anthropic", "bedrock"):
        return schema
    return _supported(schema)


def _supported(schema: Any) -> Any:
    """Return a schema with the keywords that Anthropic's API supports; objects are closed, as it demands."""
    if not isinstance(schema, Mapping):
        return schema
    sent: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS:
            sent[key] = {name: _supported(part) for name, part in value.items()}
        elif key in ("anyOf", "allOf", "oneOf"):
            sent["anyOf" if key == "oneOf" else key] = [_supported(part) for part in value]
        elif key == "items":
            sent[key] = _supported(value)
        elif key in _PLAIN:
            sent[key] = value
    if "properties" in sent:
        sent["additionalProperties"] = False
    return sent


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT:
        return False
    fields = schema.get("properties", {})
    is_object = "properties" in schema or schema.get("type") == "object"
    if is_object and (
        schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(fields)
    ):
        return False
    parts = [*fields.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    return all(_is_strict(part) for part in [*parts, *([schema["items"]] if "items" in schema else [])])


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
