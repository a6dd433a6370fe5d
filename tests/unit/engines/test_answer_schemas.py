"""The schema of a structured answer as each API takes it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.answer_schemas import for_api, is_strict
from llm_server.engines.connections import EnginePool
from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.execution import plan_proposal, review
from support.engine_wires import CALL, WIRES, pool, server, wire
from support.fake_engine import FakeEngine, status

SCHEMAS = {"plan": plan_proposal.schema(["QA-Agent"]), "verdict": review.schema()}
LENGTHS = {"minLength", "maxLength"}
BOUNDS = LENGTHS | {"minItems", "maxItems", "pattern"}

__all__ = ["pool", "server"]  # fixtures


def an_api(kind: Any, source: Any) -> EngineSpec:
    return EngineSpec(kind=kind, source=source, model="m", base_url="http://127.0.0.1:1")


def keywords(schema: Any) -> set[str]:
    """Return the keywords that a schema uses at any depth."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    nested = [schema.get("items"), *schema.get("properties", {}).values()]
    return set(schema).union(*map(keywords, nested))


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize(
    ("kind", "source", "left_out"),
    [
        ("openai", "api", LENGTHS),
        ("openai", "local", set()),
        ("anthropic", "api", BOUNDS),
        ("anthropic", "local", BOUNDS),
        ("bedrock", "api", BOUNDS),
    ],
)
def test_only_the_keywords_that_an_api_refuses_are_left_out(
    kind: str, source: str, left_out: set[str], name: Any
) -> None:
    """A refused keyword costs a second call, and then the schema is only a request in the prompt."""
    schema = SCHEMAS[name]

    sent = for_api(AnswerSchema(name=name, schema=schema), an_api(kind, source))

    assert keywords(sent) == keywords(schema) - left_out
    assert "maxLength" in keywords(schema)
    assert sent["required"] == schema["required"]
    assert sent["properties"].keys() == schema["properties"].keys()


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = {"properties": {"pattern": {"type": "string", "pattern": "x"}}, "anyOf": [{"minLength": 1}]}

    sent = for_api(AnswerSchema(name="plan", schema=schema), an_api("anthropic", "api"))

    assert sent == {"properties": {"pattern": {"type": "string"}}, "anyOf": [{}]}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_keeps_the_rules_of_strict_mode(schema: dict[str, Any]) -> None:
    """OpenAI refuses objects that allow other fields, and objects with a field that may be left out."""
    objects = [schema, *([schema["properties"]["steps"]["items"]] if "steps" in schema["properties"] else [])]

    for described in objects:
        assert described["additionalProperties"] is False
        assert set(described["required"]) == set(described["properties"])


def sent_schema(body: Any) -> Any:
    """Return the schema in the request of any API."""
    chat = body.get("response_format", {}).get("json_schema", {}).get("schema")
    messages = body.get("output_config", {}).get("format", {}).get("schema")
    converse = body.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema", {})
    return chat or messages or json.loads(converse["schema"])


@pytest.mark.parametrize("kind", WIRES)
def test_each_adapter_sends_the_schema_of_its_api(kind: str, server: FakeEngine, pool: EnginePool) -> None:
    schema = AnswerSchema(name="plan", schema=SCHEMAS["plan"])

    wire(kind, server, pool).engine.complete(replace(CALL, answer_schema=schema), timeout_s=5)

    sent = sent_schema(server.last.body)
    assert sent == for_api(schema, an_api(kind, "api"))
    assert sent != schema.schema


CLOSED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def callers(schema: dict[str, Any]) -> AnswerSchema:
    return AnswerSchema(name="answer", schema=schema)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "properties": {"n": {"anyOf": [CLOSED, {"type": "null"}]}}}, True),
        (
            {**CLOSED, "properties": {"n": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$defs": {"a": CLOSED}},
            True,
        ),
        ({**CLOSED, "additionalProperties": True}, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "properties": {"n": {"type": "string", "minLength": 1}}}, False),
        ({**CLOSED, "properties": {"n": {"type": "object"}}}, False),
        ({**CLOSED, "properties": {"n": True}}, False),
        ({**CLOSED, "oneOf": [{}]}, False),
        ({"type": "array", "items": CLOSED}, False),
        ({}, False),
    ],
)
def test_a_callers_schema_is_strict_only_by_openais_rules(schema: dict[str, Any], strict: bool) -> None:
    """OpenAI refuses any other strict schema, and the answer would cost a second call."""
    assert is_strict(callers(schema)) is strict
    assert for_api(callers(schema), an_api("openai", "api")) == schema


@pytest.mark.parametrize("kind", ["anthropic", "bedrock"])
def test_what_anthropic_refuses_is_left_out_of_a_callers_schema(kind: str) -> None:
    """Only keywords are left out: a field or a value may have the name of one. The result is checked against all."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"minimum": {"type": "integer", "minimum": 3}, "kind": {"const": {"pattern": "a"}}},
        "patternProperties": {"a": {}},
        "if": {},
        "oneOf": [{"required": ["kind"]}],
    }

    assert for_api(callers(schema), an_api(kind, "api")) == {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}, "kind": {"const": {"pattern": "a"}}},
        "anyOf": [{"required": ["kind"]}],
        "additionalProperties": False,
    }


def test_a_refused_callers_schema_is_sent_as_text_and_the_next_one_as_a_field(
    server: FakeEngine, pool: EnginePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One caller's unusual schema must not take the API's field from all other calls."""
    engine = wire("openai", server, pool)
    call = replace(CALL, answer_schema=callers({"type": "array"}))
    monkeypatch.setattr(server, "answer", lambda _: "[]")
    server.script(status(400))
    engine.engine.complete(call, timeout_s=5)
    assert "response_format" not in server.last.body
    assert "Answer with one JSON value and nothing else" in json.dumps(server.last.body)

    engine.engine.complete(call, timeout_s=5)
    sent = server.last.body["response_format"]["json_schema"]
    assert sent == {"name": "answer", "strict": False, "schema": {"type": "array"}}
