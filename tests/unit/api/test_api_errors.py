"""Errors of every route and of the framework: each has a status, a code, one sentence and a request id."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Query
from mangum import Mangum
from starlette.types import Receive, Scope, Send

from llm_server.api import errors
from llm_server.api.app import App
from llm_server.api.edge import Edge
from llm_server.api.requests.routes import OpenRoute
from llm_server.orchestration.domain.errors import IllegalTransition, StorageMisconfigured, TaskNotFound
from llm_server.orchestration.domain.ports.store import Store
from support import asgi
from support.in_process_server import DOWN, CalledServer, FailingStore

EVENTS = Path(__file__).parents[3] / "events"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TEXT = ["application/json", errors.MEDIA_TYPE]
BOOM = RuntimeError("the secret of line 7")

ServerOn = Callable[[Store], CalledServer]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/tasks/",
        "/api/v2/tasks",
        "/%00",
        "//",
        "/api/v1/tasks%0A",
        "/api/v1/health%0a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_not_found(shared_server: CalledServer, method: str, path: str) -> None:
    """There are no redirects, and existing paths are not listed."""
    answer = shared_server.call(method, path)

    assert (answer.status, answer.code, answer.detail) == (404, "path_not_found", "The API does not have this path.")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "tasks", "GET, POST, HEAD, OPTIONS"),
        ("DELETE", "tasks", "GET, POST, HEAD, OPTIONS"),
        ("POST", "tasks/t1", "DELETE, GET, HEAD, OPTIONS"),
        ("GET", "tasks/quote", "POST, OPTIONS"),
        ("TRACE", "metrics", "GET, HEAD, OPTIONS"),
        ("BREW", "usage", "GET, HEAD, OPTIONS"),
        ("POST", "docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_gets_the_list_of_allowed_methods(
    shared_server: CalledServer, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, 15.5.6: Allow lists all methods of the path, not only those of one route."""
    answer = shared_server.call(method, path)

    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    detail = f"This path does not support the method {method}; allowed are {allowed}."
    assert (answer.code, answer.detail) == ("method_not_allowed", detail)


def test_a_head_request_to_a_path_without_get_is_refused_without_a_body(shared_server: CalledServer) -> None:
    answer = shared_server.call("HEAD", "tasks/quote")

    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST, OPTIONS", b"")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("tasks", "GET, POST, HEAD, OPTIONS"), ("tasks/quote", "POST, OPTIONS"), ("health", "GET, HEAD, OPTIONS")],
)
def test_options_lists_the_methods_of_a_path_without_a_key(server: CalledServer, path: str, allowed: str) -> None:
    server.with_key()
    answer = server.call("OPTIONS", path)

    assert (answer.status, answer.headers["allow"], answer.body) == (204, allowed, b"")
    assert answer.headers["x-request-id"]
    assert server.call("OPTIONS", "nowhere").status == 404


@pytest.mark.parametrize("path", ["health", "tasks", "tasks/t1", "nowhere", "docs", "openapi.json", "tasks?x=1"])
def test_head_is_answered_like_get_but_without_a_body(shared_server: CalledServer, path: str) -> None:
    """Also errors and the length (RFC 9110, 9.3.2)."""
    got = shared_server.call("GET", path, headers={"x-request-id": "r-1"})
    head = shared_server.call("HEAD", path, headers={"x-request-id": "r-1"})

    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")
    assert int(head.headers["content-length"]) == len(got.body) > 0


def test_head_reads_only_what_the_key_may_read(server: CalledServer) -> None:
    server.with_key()

    assert server.call("HEAD", "tasks").status == 401


def test_the_openapi_document_does_not_list_head_and_options(shared_server: CalledServer) -> None:
    """They follow from the other methods; listed, they would double the methods of generated clients."""
    paths = shared_server.get("openapi.json").json["paths"]

    assert {method for path in paths.values() for method in path} == {"get", "post", "patch", "delete"}


def test_only_a_pattern_against_nul_is_reported_as_nul() -> None:
    """Otherwise the caller would look for a NUL character that is not there."""
    router = APIRouter(route_class=OpenRoute)

    @router.get("/")
    async def read(colour: Annotated[str, Query(pattern="^(red|blue)$")] = "red") -> None: ...

    app = App(lambda: "r-1")
    app.add(router)

    detail = asgi.call(app, "GET", "/?colour=green").detail

    assert ("'colour'" in detail, "^(red|blue)$" in detail, "NUL" in detail) == (True, True, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "metrics"), ("GET", "usage"), ("GET", "tasks"), ("GET", "tasks/t1"), ("POST", "tasks")],
)
def test_a_store_that_does_not_answer_causes_503(
    server: CalledServer, server_on: ServerOn, method: str, path: str
) -> None:
    """The answer has a Retry-After header."""
    parts = [b'{"prompt": "Say hello."}']

    answer = server_on(FailingStore(server.store, DOWN)).call(method, path, headers=asgi.JSON, parts=parts)

    assert (answer.status, int(answer.headers["retry-after"]) >= 1) == (503, True)
    assert (answer.code, answer.detail) == ("storage_unavailable", "The database does not answer; try again.")


def test_the_reason_why_the_store_is_misconfigured_is_only_in_the_log(
    server: CalledServer, server_on: ServerOn, caplog: pytest.LogCaptureFixture
) -> None:
    """Names of tables and policies are for operators; callers get a 503 as in any outage of the store."""
    answer = server_on(FailingStore(server.store, StorageMisconfigured("Check LLM_SERVER_TABLE."))).get("metrics")

    (record,) = caplog.records
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert (answer.code, answer.detail) == (
        "storage_misconfigured",
        "The server cannot use its database; its log says why.",
    )
    assert (record.levelno, record.message) == (logging.ERROR, "the database cannot be used")
    assert vars(record)["cause"] == "Check LLM_SERVER_TABLE."


@pytest.mark.parametrize("error", [BOOM, IllegalTransition("the secret of line 7", "Failed", "Queued")])
def test_an_unexpected_error_is_500_without_details(
    server: CalledServer, server_on: ServerOn, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The caller gets a request id, and the log has the error under this id."""
    answer = server_on(FailingStore(server.store, error)).get("metrics", x_request_id="r-1")

    assert (answer.status, answer.code, answer.json["request_id"]) == (500, "internal_error", "r-1")
    assert b"secret" not in answer.body
    (record,) = caplog.records
    assert (record.levelno, record.exc_info and record.exc_info[1]) == (logging.ERROR, error)
    assert vars(record)["request_id"] == "r-1"


@pytest.mark.parametrize("error", [BOOM, TaskNotFound()])
def test_an_error_after_the_response_has_started_cuts_the_connection(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The caller must not take a partial answer for a complete one."""

    async def breaks_off(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    with pytest.raises(type(error)):
        asgi.call(Edge(breaks_off, lambda: "r-1"), "GET", "/")
    assert len(caplog.records) == 1


def test_a_call_that_the_stopping_server_cancels_is_503(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn answered 500 in text/plain, and wrote a traceback."""

    async def cancelled(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise asyncio.CancelledError

    answer = asgi.call(Edge(cancelled, lambda: "r-1"), "POST", "/")

    assert (answer.status, answer.code, answer.json["request_id"]) == (503, "storage_unavailable", "r-1")
    assert caplog.records == []


def test_a_response_that_the_stopping_server_cancels_is_broken_off_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def begun(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    answer = asgi.call(Edge(begun, lambda: "r-1"), "GET", "/")

    assert (answer.status, answer.body, caplog.records) == (200, b"", [])


CALLS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "health", {}),
    (202, "POST", "tasks", {"headers": asgi.JSON, "parts": [b'{"prompt": "x"}']}),
    (200, "GET", "openapi.json", {}),
    (200, "GET", "docs", {}),
    (400, "POST", "tasks", {"headers": asgi.JSON, "parts": [b"{"]}),
    (404, "GET", "tasks/t1", {}),
    (404, "GET", "/nowhere", {}),
    (405, "PUT", "tasks", {}),
    (413, "POST", "tasks", {"headers": asgi.JSON | {"content-length": "9" * 9}}),
    (415, "POST", "tasks", {"parts": [b"{}"]}),
    (422, "POST", "tasks", {"headers": asgi.JSON, "parts": [b"{}"]}),
    (422, "GET", "tasks?page_size=0", {}),
]


@pytest.mark.parametrize(("status", "method", "path", "options"), CALLS)
def test_every_answer_has_a_request_id(
    server: CalledServer, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    """The server creates a new id for each call if the caller sent none."""
    answers = [server.call(method, path, **options) for _ in range(2)]

    names = [answer.headers["x-request-id"] for answer in answers]
    assert [answer.status for answer in answers] == [status] * 2
    assert all(UUID7.fullmatch(name) for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize(("status", "method", "path", "options"), CALLS)
def test_the_callers_request_id_is_returned(
    server: CalledServer, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    """So that the logs of caller and server can be joined."""
    own = "Root=1-6868f1a0-3f2c1b0a9d8e7f6a5b4c3d2e"
    headers = dict(options.get("headers", {})) | {"x-request-id": own}

    answer = server.call(method, path, **options | {"headers": headers})

    assert (answer.status, answer.headers["x-request-id"]) == (status, own)


@pytest.mark.parametrize("own", ["", " ", "a b", "a\tb", "é", "a;b", '"a"', "<a>", "x" * 129, "x" * 200_000])
def test_an_invalid_request_id_is_replaced(shared_server: CalledServer, own: str) -> None:
    """The id is written into a header and into the log."""
    assert UUID7.fullmatch(shared_server.get("health", x_request_id=own).headers["x-request-id"])


@pytest.mark.parametrize("name", ["prefer", "if-none-match", "accept", "cookie", "x-unknown"])
def test_a_header_of_200_kilobytes_causes_no_error(server: CalledServer, name: str) -> None:
    """A server in front may pass such headers on; they are read in linear time."""
    headers = asgi.JSON | {name: "wait, =;" * 25_000}

    assert server.call("POST", "tasks", headers=headers, parts=[b'{"prompt": "x"}']).status == 202
    assert server.call("GET", "tasks/t1", headers=headers).status == 404


@pytest.fixture
def loop() -> Iterator[None]:
    """Set an event loop for Mangum, which would otherwise create one and leave it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.usefixtures("loop")
def test_api_gateway_gets_the_same_errors(server: CalledServer, server_on: ServerOn) -> None:
    """Mangum has error answers of its own; 202, 422, 500 and 503 must look as in the embedded server."""
    event = json.loads((EVENTS / "api-v2-post-task.json").read_text(encoding="utf-8"))
    event["headers"] |= server.with_key().headers
    broken, down = FailingStore(server.store, BOOM), FailingStore(server.store, DOWN)
    calls = [
        (server, event),
        (server, event | {"body": "{}"}),
        (server_on(broken), event),
        (server_on(down), event),
    ]

    context: Any = None

    answers = [Mangum(served.app, lifespan="off", text_mime_types=TEXT)(called, context) for served, called in calls]

    assert [answer["statusCode"] for answer in answers] == [202, 422, 500, 503]
    assert all(answer["headers"]["x-request-id"] for answer in answers)
    bodies = [json.loads(answer["body"]) for answer in answers[1:]]
    assert [body["code"] for body in bodies] == ["invalid_input", "internal_error", "storage_unavailable"]
    for answer, body in zip(answers[1:], bodies, strict=True):
        asgi.check_problem(body, answer["statusCode"], answer["headers"])
    assert "secret" not in answers[2]["body"]
