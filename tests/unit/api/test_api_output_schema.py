"""A task with a schema of its result over HTTP: refused or accepted, quoted, and done by the embedded engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.in_process_server import CalledServer

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"const": [value]}
    return value


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("path", ["tasks", "tasks/quote"])
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (deep(40), "it is nested more than 64 levels deep"),
        ({"const": "x" * 40_000}, "at most 32768 are accepted"),
        ({"properties": {f"p{n}": {"pattern": rf"\w{{200}}{n}"} for n in range(300)}}, "300 different patterns"),
        ({"$ref": "#"}, "leads back to itself"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named(
    server: CalledServer, path: str, keyed: bool, schema: Any, reason: str
) -> None:
    """With an Idempotency-Key, too, for which the body is hashed before it is checked."""
    headers = {"idempotency_key": "k-1"} if keyed and path == "tasks" else {}
    answer = server.post({"prompt": "Why?", "output_schema": schema}, path, **headers)

    assert (answer.status, answer.code) == (422, "invalid_input")
    assert reason in answer.detail
    assert [error["pointer"] for error in answer.json["errors"]] == ["/output_schema"]


@pytest.mark.parametrize("schema", [[], "object", True, 5])
def test_a_schema_is_an_object(server: CalledServer, schema: Any) -> None:
    answer = server.post({"prompt": "Why?", "output_schema": schema})

    assert answer.status == 422
    assert [error["pointer"] for error in answer.json["errors"]] == ["/output_schema"]


def test_the_embedded_engine_answers_with_an_example(server: CalledServer) -> None:
    """Its texts say that no LLM is configured. With a schema that is null, the answer is text as usual."""
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    ids = [
        server.post({"prompt": "Why?", "mode": "Chat", "output_schema": schema}).json["task_id"]
        for schema in (SCHEMA, texts, None)
    ]
    server.work()
    results = [server.get(f"tasks/{task_id}").json["result"] for task_id in ids]

    assert json.loads(results[0]) == {"n": 0}
    assert json.loads(results[1]) == ["Example text: no LLM is configured."]
    assert "No LLM is configured." in results[2]


def test_a_schema_without_an_example_fails_the_task(server: CalledServer) -> None:
    """No value follows it, so no engine can give one."""
    impossible = {"type": "integer", "minimum": 5, "maximum": 3}
    task_id = server.post({"prompt": "Why?", "mode": "Chat", "output_schema": impossible}).json["task_id"]
    server.work()
    task = server.get(f"tasks/{task_id}").json

    assert (task["status"], task["result"]) == ("Failed", None)
    assert task["error"].startswith("No example was found that follows output_schema.")
