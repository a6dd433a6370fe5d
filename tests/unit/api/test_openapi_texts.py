"""Everything in the OpenAPI document has a description and an example; requests are closed, responses open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from export_openapi import document

DESCRIBED: dict[str, Any] = json.loads(document())
SCHEMAS: dict[str, dict[str, Any]] = DESCRIBED["components"]["schemas"]
OPERATIONS = {
    operation["operationId"]: operation for path in DESCRIBED["paths"].values() for operation in path.values()
}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference into the components."""
    if "$ref" not in part:
        return part
    _, _, kind, name = part["$ref"].split("/")
    found: dict[str, Any] = DESCRIBED["components"][kind][name]
    return found


def schemas_in(part: Any) -> Iterator[str]:
    """Yield the names of the component schemas that a part of the document leads to."""
    if isinstance(part, dict):
        if "$ref" in part and part["$ref"].startswith("#/components/schemas/"):
            name = part["$ref"].rpartition("/")[2]
            yield name
            yield from schemas_in(SCHEMAS[name])
        for inner in part.values():
            yield from schemas_in(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from schemas_in(inner)


REQUESTS = {n for o in OPERATIONS.values() for n in schemas_in(o.get("requestBody"))}
RESPONSES = {n for o in OPERATIONS.values() for a in o["responses"].values() for n in schemas_in(resolved(a))}


def example_of(schema: dict[str, Any]) -> bool:
    """Tell whether a schema has an example: its own, in each variant, or in everything that it refers to."""
    if schema.get("examples") or "enum" in schema or "const" in schema:
        return True
    arms = [arm for arm in schema.get("anyOf", []) if arm != {"type": "null"}]
    inner = [*arms, *(schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict))]
    return "$ref" in schema or (bool(inner) and all(example_of(part) for part in inner))


def faults() -> Iterator[str]:
    """Yield each part of the document that lacks a description or an example."""
    for name, schema in SCHEMAS.items():
        if not schema.get("description"):
            yield f"schema {name}: no description"
        for field, part in schema.get("properties", {}).items():
            yield from missing(f"property {name}.{field}", part, shown=example_of(part))
    for name, header in DESCRIBED["components"]["headers"].items():
        yield from missing(f"header {name}", header, shown="example" in header)
    for name, operation in OPERATIONS.items():
        for word in ("summary", "description"):
            if not operation.get(word):
                yield f"operation {name}: no {word}"
        for parameter in operation.get("parameters", []):
            yield from missing(
                f"parameter {name} {parameter['name']}", parameter, shown=example_of(parameter["schema"])
            )
        for status, answer in operation["responses"].items():
            yield from faults_of_response(f"response {name} {status}", resolved(answer))


def faults_of_response(place: str, answer: dict[str, Any]) -> Iterator[str]:
    described = answer.get("description", "")
    if not described or described == "Successful Response":
        yield f"{place}: described as {described!r}"
    for header, part in answer.get("headers", {}).items():
        yield from missing(f"{place} {header}", resolved(part), shown="example" in resolved(part))
    for content in answer.get("content", {}).values():
        if not example_of(content["schema"]):
            yield f"{place}: no example"


def missing(place: str, part: dict[str, Any], *, shown: bool) -> Iterator[str]:
    if not part.get("description"):
        yield f"{place}: no description"
    if not shown:
        yield f"{place}: no example"


def test_everything_has_a_description_and_an_example() -> None:
    assert list(faults()) == []


def test_every_operation_has_one_described_tag() -> None:
    described = {tag["name"]: tag["description"] for tag in DESCRIBED["tags"]}

    assert all(described.values())
    assert {name: operation["tags"] for name, operation in OPERATIONS.items() if len(operation["tags"]) != 1} == {}
    assert {operation["tags"][0] for operation in OPERATIONS.values()} == set(described)


def test_requests_are_closed_and_responses_open() -> None:
    """A client must notice a misspelt field, and must not break on a field that a later version adds."""
    objects = {name for name, schema in SCHEMAS.items() if schema.get("type") == "object"}
    closed = {name for name in objects if SCHEMAS[name].get("additionalProperties") is False}

    assert REQUESTS & RESPONSES & objects == set()
    assert closed == REQUESTS & objects
    assert (REQUESTS | RESPONSES) & objects == objects


def test_status_and_mode_are_one_component_each() -> None:
    """Otherwise a generator creates several incompatible types for them."""
    statuses, modes = SCHEMAS["Status"]["enum"], SCHEMAS["Mode"]["enum"]
    text = json.dumps(DESCRIBED)

    assert text.count(json.dumps(statuses)) == text.count(json.dumps(modes)) == 1
    for name in ("TaskView", "TaskSummary", "TaskDetail"):
        assert fields(name)["status"]["$ref"] == "#/components/schemas/Status"
    for name in ("TaskSummary", "TaskDetail", "DecisionView"):
        assert fields(name)["mode"]["$ref"] == "#/components/schemas/Mode"
    assert fields("NewTask")["mode"]["anyOf"][0]["$ref"] == "#/components/schemas/Mode"


def fields(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMAS[name].get("properties", {})
    return found


@pytest.mark.parametrize("name", ["created_at", "updated_at", "finished_at", "started_at", "at", "revoked_at"])
def test_times_have_their_format(name: str) -> None:
    found = [fields(schema)[name] for schema in SCHEMAS if name in fields(schema)]

    assert found
    assert {arm["format"] for field in found for arm in field.get("anyOf", [field])[:1]} == {"date-time"}


def test_task_ids_have_their_format_wherever_they_are() -> None:
    in_bodies = [fields(name)["task_id"] for name in SCHEMAS if "task_id" in fields(name)]
    in_paths = [p["schema"] for o in OPERATIONS.values() for p in o.get("parameters", []) if p["name"] == "task_id"]

    assert {arm["format"] for field in in_bodies for arm in field.get("anyOf", [field])[:1]} == {"uuid"}
    assert {schema["format"] for schema in in_paths} == {"uuid"}


def test_headers_are_described_as_text() -> None:
    """Or as a number. A header is never a JSON array; generators skip operations that declare one."""
    headers = [p for o in OPERATIONS.values() for p in o.get("parameters", []) if p["in"] == "header"]

    assert {p["name"] for p in headers} >= {"Prefer", "Idempotency-Key", "If-None-Match"}
    assert {p["schema"]["type"] for p in headers} == {"string", "integer"}


def test_every_example_fits_its_schema() -> None:
    wrong = []
    for name, schema in SCHEMAS.items():
        for field, part in schema.get("properties", {}).items():
            validator = jsonschema_rs.Draft202012Validator(part | {"components": DESCRIBED["components"]})
            wrong += [(name, field, shown) for shown in part.get("examples", []) if not validator.is_valid(shown)]

    assert wrong == []
