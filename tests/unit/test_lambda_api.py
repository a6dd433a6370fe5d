"""The API function: a short cold start, and answers that Lambda accepts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aws_local.gateway import MAX_ANSWER_BYTES
from llm_server.orchestration.domain.output import MAX_TEXTS_BYTES
from support.builders import an_output

FUNCTION = """
import base64, json, sys, types
from llm_server.lambda_api import handler
from llm_server.orchestration.domain.api_key import Caller

async def admit(request):
    return Caller(), {}

handler.app.state.gate = types.SimpleNamespace(admit=admit)  # no table to ask for keys

def answer(method, path, body=None):
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "", "requestContext": {"http": http},
             "headers": {"host": "x", "content-type": "application/json"}, "body": body, "isBase64Encoded": False}
    return handler(event, types.SimpleNamespace(aws_request_id="r1"))
"""
ASKED = """
got = [answer("GET", "/api/v1/health"), answer("POST", "/api/v1/tasks", '{"prompt": 1}')]
old = [name for name, module in sys.modules.items() if name.startswith("pydantic.v1") and module]
print(json.dumps([[a["statusCode"] for a in got], old]))
"""
LOADED = """
unused = ("llm_server.orchestration.execution", "llm_server.orchestration.tasks.worker", "llm_server.engines.wire")
print(json.dumps([name for name in sys.modules if name.startswith(unused)]))
"""
READ = """
from support.builders import NOW_MS, a_snapshot, a_task, an_attempt, an_output, claimed

def read(piece, times):
    answered = an_output(text=piece * times, attempts=(an_attempt(),) * 1_000)
    snapshot = a_snapshot(claimed(a_task()).completed(answered), None, answered)
    handler.app.state.service = types.SimpleNamespace(get=lambda ref: snapshot, now_ms=lambda: NOW_MS)
    got = answer("GET", "/api/v1/tasks/t1")
    body = base64.b64decode(got["body"]) if got["isBase64Encoded"] else got["body"]
    return {"bytes": len(json.dumps(got, ensure_ascii=False).encode()),  # as Lambda's Python 3.13 writes it down
            "whole": json.loads(body)["result"] == answered.text, "packed": got["isBase64Encoded"]}

print(json.dumps([read(*text) for text in json.loads(sys.stdin.read())]))
"""
DOCS = """
from llm_server.api.routes import docs

read_at_start = docs._asset.cache_info().currsize
page, script = answer("GET", "/api/v1/docs"), answer("GET", "/api/v1/docs/swagger-ui-bundle.js")
whole = script["body"].encode() == docs._asset("swagger-ui-bundle.js").content
print(json.dumps({"read_at_start": read_at_start, "page": page, "whole": whole,
                  "headers": script["headers"], "packed": script["isBase64Encoded"]}))
"""
DIALECT = """
def modules():
    return sorted(name for name in sys.modules if name.startswith("llm_server.api.openai."))

at_start, models, at_the_end = modules(), answer("GET", "/v1/models"), modules()
print(json.dumps([at_start, models["statusCode"], len(at_the_end) > 10]))
"""
BROKEN_BODY = """
http = {"method": "POST", "path": "/v1/responses", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
event = {"version": "2.0", "rawPath": "/v1/responses", "rawQueryString": "", "requestContext": {"http": http},
         "headers": {"host": "x"}, "body": "a", "isBase64Encoded": True}
got = handler(event, types.SimpleNamespace(aws_request_id="r1"))
print(json.dumps([got["statusCode"], sorted(json.loads(got["body"])), got["headers"]["x-should-retry"]]))
"""
IGNORED = """
import logging
logging.basicConfig(stream=sys.stderr, level="INFO", format="%(message)s")
context = types.SimpleNamespace(aws_request_id="r1")
print(json.dumps([handler(event, context) for event in json.loads(sys.stdin.read())]))
"""
HTTP = {"method": "GET", "path": "/api/v1/health", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
HALF_BUILT: list[object] = [
    {"version": "2.0", "requestContext": {}},
    {"version": "2.0", "requestContext": {"http": {}}},
    {"version": "2.0", "requestContext": {"http": None}},
    {"version": "2.0", "requestContext": {"authorizer": {}}, "type": "REQUEST", "routeArn": "arn"},
    {"version": "2.0", "requestContext": {"http": HTTP}, "headers": {"host": None}},
    {"version": "2.0", "requestContext": {"http": HTTP}, "headers": {}, "body": {"prompt": "Say one."}},
    {"version": "1.0", "requestContext": {}},
    {"resource": "/", "requestContext": {}},
    {"requestContext": {"elb": {}}},
    {"requestContext": {"elb": {}}, "headers": None, "path": None, "httpMethod": "GET"},
]
REST_EVENT = {
    "resource": "/{proxy+}",
    "path": "/api/v1/health",
    "httpMethod": "GET",
    "headers": None,
    "multiValueHeaders": None,
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": {"proxy": "api/v1/health"},
    "stageVariables": None,
    "requestContext": {
        "resourcePath": "/{proxy+}",
        "httpMethod": "GET",
        "identity": {"sourceIp": "test-invoke-source-ip"},
    },
    "body": None,
    "isBase64Encoded": False,
}
"""What the test page of a REST API sends if no header is given."""
EVENTS = Path(__file__).parents[2] / "events"
ON_AWS = {
    "LLM_SERVER_TABLE": "table",
    "LLM_SERVER_QUEUE_URL": "http://127.0.0.1:1/queue",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}


def ran(script: str, given: object = None) -> Any:
    """Run a script about the function in its own process; return what it prints."""
    return json.loads(_run(script, given).stdout)


def _run(script: str, given: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **ON_AWS, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FUNCTION + script]
    return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True, env=environ)


def test_the_api_function_does_not_import_pydantic_v1() -> None:
    """Importing it would take 6 % of a cold start; requests are validated and answered without it."""
    assert ran(ASKED) == [[200, 422], []]


def test_the_dialect_is_imported_with_its_first_call() -> None:
    """A function that is never asked in the dialect does not pay for it at its cold start."""
    assert ran(DIALECT) == [["llm_server.api.openai.mount"], 200, True]


def test_a_body_that_is_not_base64_is_refused_in_the_form_of_its_path() -> None:
    assert ran(BROKEN_BODY) == [400, ["detail", "error"], "false"]


@pytest.fixture(scope="module")
def pieces() -> dict[str, int]:
    """Texts to repeat, and how often they must be repeated to reach the maximum stored size."""
    sizes = {piece: an_output(text=piece).size for piece in ("a", "€", '"', "\n", "\x01", "😀")}
    return {piece: MAX_TEXTS_BYTES // size for piece, size in sizes.items()}


def test_a_task_of_the_maximum_size_can_be_read(pieces: dict[str, int]) -> None:
    """With 1,000 calls on its receipt. JSON escaped again as JSON would mostly exceed the limit of Lambda."""
    answers = ran(READ, list(pieces.items()))

    assert [answer["whole"] for answer in answers] == [True] * len(pieces)
    assert max(answer["bytes"] for answer in answers) <= MAX_ANSWER_BYTES


def test_only_a_large_body_is_encoded_as_base64() -> None:
    """Plain answers are smaller, and readable in an emulator."""
    answers = ran(READ, [["Hello.", 1], ["a", MAX_TEXTS_BYTES], ['"', MAX_TEXTS_BYTES // 2]])

    assert [answer["packed"] for answer in answers] == [False, False, True]


def test_the_documentation_page_is_sent_as_text_and_read_on_demand() -> None:
    """Every kind of API Gateway passes text on unchanged.

    The files are read on the first request, not at a cold start.
    """
    docs = ran(DOCS)

    assert docs["read_at_start"] == 0
    assert (docs["page"]["statusCode"], docs["page"]["isBase64Encoded"]) == (200, False)
    assert docs["page"]["headers"]["content-type"] == "text/html; charset=utf-8"
    assert (docs["whole"], docs["packed"]) == (True, False)
    assert docs["headers"]["content-type"] == "text/javascript; charset=utf-8"
    assert docs["headers"]["content-security-policy"].startswith("default-src 'none'")


def test_other_events_are_ignored() -> None:
    files = [json.loads((EVENTS / name).read_text()) for name in ("warm-up.json", "sqs-batch.json", "sweep.json")]
    odd: list[object] = [{}, None, [], "text", 5, {"requestContext": None}, {"requestContext": {}}, {"Records": []}]
    assert ran(IGNORED, [*files, *odd]) == [{"ignored": "The event is not an HTTP request of API Gateway."}] * 11


def test_the_api_function_does_not_load_what_carries_tasks_out() -> None:
    """It would make each cold start longer."""
    assert ran(LOADED) == []


def test_half_built_events_are_ignored_and_logged() -> None:
    """They look like a request, but lack its method, path or address, or have parts of another type."""
    done = _run(IGNORED, HALF_BUILT)

    ignored = {"ignored": "The event is not an HTTP request of API Gateway."}
    assert json.loads(done.stdout) == [ignored] * len(HALF_BUILT)
    assert done.stderr.splitlines().count("event ignored") == len(HALF_BUILT)


@pytest.mark.parametrize(
    "event",
    [
        REST_EVENT,
        REST_EVENT | {"requestContext": {"identity": None}},
        REST_EVENT | {"version": "1.0"},
        {"version": "2.0", "headers": None, "cookies": None, "body": None, "requestContext": {"http": HTTP}},
        {"requestContext": {"elb": {}}, "headers": None, "path": HTTP["path"], "httpMethod": "GET", "body": None},
    ],
)
def test_a_request_with_null_for_its_headers_is_answered(event: object) -> None:
    (answer,) = ran(IGNORED, [event])

    assert (answer["statusCode"], json.loads(answer["body"])["status"]) == (200, "ok")


def test_a_body_that_is_not_base64_is_refused() -> None:
    (answer,) = ran(IGNORED, [REST_EVENT | {"body": "a", "isBase64Encoded": True}])

    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (400, "body_not_base64")
