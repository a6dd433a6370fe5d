"""The local gateway passes on the same events as API Gateway, and returns the function's answers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aws_local.environments import ToolMissing
from aws_local.gateway import MAX_ANSWER_BYTES, Gateway
from aws_local.invocation import LambdaContext
from aws_local.ministack import running

EVENTS = Path(__file__).parents[3] / "events"


class Function:
    """Records the event and returns a given answer."""

    def __init__(self) -> None:
        self.event: Any = None
        self.answer: Any = {"statusCode": 200, "body": "{}"}

    def __call__(self, event: Any) -> Any:
        self.event = event
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def function() -> Function:
    return Function()


@pytest.fixture
def gateway(function: Function) -> Iterator[Gateway]:
    with Gateway(function, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(gateway: Gateway, method: str, path: str, *, body: Any = None, headers: Any = None) -> tuple[int, Any, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.server_port, timeout=5)) as connection:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def keys(node: Any) -> Any:
    """Return a document without its values."""
    return {name: keys(value) for name, value in node.items()} if isinstance(node, dict) else None


def test_an_event_has_the_parts_of_a_real_one(gateway: Gateway, function: Function) -> None:
    real = json.loads((EVENTS / "api-v2-post-task.json").read_text(encoding="utf-8"))
    del real["requestContext"]["authentication"]  # the local gateway has no signatures

    ask(gateway, "POST", "/api/v1/tasks", body=real["body"], headers={"Content-Type": "application/json"})
    assert keys(function.event | {"headers": None}) == keys(real | {"headers": None})
    assert function.event["body"] == real["body"]
    assert function.event["rawPath"] == real["rawPath"]
    assert function.event["headers"]["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
def test_what_the_template_routes_reaches_the_function(gateway: Gateway, function: Function, method: str) -> None:
    assert ask(gateway, method, "/api/v1/engines/gpt", body=b"{}")[0] == 200
    assert function.event["requestContext"]["http"]["method"] == method


def test_what_is_no_text_arrives_in_base64(gateway: Gateway, function: Function) -> None:
    ask(gateway, "POST", "/api/v1/tasks", body=b"\xff\x00", headers={"Content-Type": "application/json"})

    assert (function.event["body"], function.event["isBase64Encoded"]) == ("/wA=", True)


def test_a_query_arrives_raw_and_read(gateway: Gateway, function: Function) -> None:
    ask(gateway, "GET", "/api/v1/tasks?role=a%20b&role=c&status=", headers={"Cookie": "a=1; b=2"})

    assert function.event["rawQueryString"] == "role=a%20b&role=c&status="
    assert function.event["queryStringParameters"] == {"role": "a b,c", "status": ""}
    assert function.event["cookies"] == ["a=1", "b=2"]


def test_an_answer_goes_back_as_it_is(gateway: Gateway, function: Function) -> None:
    headers = {"content-type": "text/plain", "retry-after": "1", "content-length": "9"}
    function.answer = {"statusCode": 202, "headers": headers, "body": "R3LDvMOf", "isBase64Encoded": True}

    status, received, body = ask(gateway, "POST", "/api/v1/tasks", body=b"{}")
    assert (status, received["retry-after"], received.get_all("content-length")) == (202, "1", ["6"])
    assert body.decode() == "Grüß"


def test_not_modified_has_no_body(gateway: Gateway, function: Function) -> None:
    function.answer = {"statusCode": 304, "headers": {"etag": '"1"'}, "body": ""}

    status, received, body = ask(gateway, "GET", "/api/v1/tasks/1")
    assert (status, received["etag"], body) == (304, '"1"', b"")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("PUT", {}, 404),
        ("POST", {"Host": "evil.example"}, 403),
        ("POST", {"Host": "localhost.evil.example:8000"}, 403),
        ("POST", {"Transfer-Encoding": "chunked"}, 411),
        ("POST", {"Content-Length": "many"}, 411),
        ("POST", {"Content-Length": "99999999"}, 413),
    ],
)
def test_what_api_gateway_refuses_never_reaches_the_function(
    gateway: Gateway, function: Function, method: str, headers: dict[str, str], status: int
) -> None:
    assert ask(gateway, method, "/api/v1/tasks", headers=headers)[0] == status
    assert function.event is None


def test_a_crash_of_the_function_is_a_500(gateway: Gateway, function: Function) -> None:
    function.answer = RuntimeError("out of memory")

    assert ask(gateway, "GET", "/api/v1/metrics")[0] == 500


def test_an_answer_that_lambda_would_not_take_is_a_500(gateway: Gateway, function: Function) -> None:
    """The size is that of the JSON, in which a quotation mark takes two bytes, as does each of these letters."""
    around = len('{"statusCode": 200, "body": ""}')
    function.answer = {
        "statusCode": 200,
        "body": '"' * 2_000_000 + "ü" * ((MAX_ANSWER_BYTES - around) // 2 - 2_000_000),
    }
    at_the_limit = ask(gateway, "GET", "/api/v1/tasks/1")[0]
    function.answer["body"] += '"'

    assert (at_the_limit, ask(gateway, "GET", "/api/v1/tasks/1")[0]) == (200, 500)


def test_an_invocation_knows_how_long_it_may_run() -> None:
    context = LambdaContext({"MemorySize": 256, "Timeout": 180}, name="WorkerFunction")

    assert 179_000 < context.get_remaining_time_in_millis() <= 180_000


def test_an_address_of_another_machine_is_refused_with_its_name() -> None:
    """docs/aws.md names the address of Docker's bridge, which exists only while Docker runs."""
    with (
        pytest.raises(ToolMissing, match=r"--bind 192\.0\.2\.1 is not an address of this machine"),
        running("192.0.2.1"),
    ):
        pass
