"""Errors under `/v1`: every error of the server in OpenAI's form, and what its clients are told about repeating."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm_server.api.openai import errors as dialect_errors
from llm_server.orchestration.domain.api_key import Account
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import RecordUnreadable, StorageDamaged
from support import asgi
from support.dialect import get, post, refused
from support.in_process_server import DOWN, CalledServer, FailingStore

HELLO = {"model": "auto", "input": "Say hello.", "background": True}
Call = Callable[[CalledServer], asgi.Answer]


def failing(error: Exception) -> Call:
    return lambda server: get(server.on(FailingStore(server.store, error)), "responses/resp_t1")


def above(limit: str) -> Call:
    def call(server: CalledServer) -> asgi.Answer:
        caller = server.with_key("acme", "tasks", **{limit: 1})
        return [post(caller, "responses", HELLO) for _ in range(2)][-1]

    return call


def without_a_key(server: CalledServer) -> asgi.Answer:
    server.with_key()
    return get(server, "models")


def with_spent_money(server: CalledServer, *, reserved: bool) -> asgi.Answer:
    """Use a key whose 100 micro-USD of the day are charged, either by a call that ended or by one in progress."""
    caller = server.with_key("acme", "tasks", microusd_per_day=100)
    account = Account(caller.headers["authorization"].split("_")[1], day_of(server.service.now_ms()))
    server.keys.reserve(account, "c#1", 100, max_microusd=100)
    if not reserved:
        server.keys.settle(account, "c#1", 100, 100)
    assert caller.post({"prompt": "x"}).status == 429
    return post(caller, "responses", HELLO)


@pytest.mark.parametrize(
    ("call", "status", "kind", "code", "repeats"),
    [
        (lambda s: post(s, "responses", b"{"), 400, "invalid_request_error", "body_json_invalid", False),
        (lambda s: post(s, "responses", b" "), 400, "invalid_request_error", "body_empty", False),
        (without_a_key, 401, "authentication_error", "unauthenticated", False),
        (lambda s: with_spent_money(s, reserved=False), 402, "insufficient_quota", "usd_per_day_spent", False),
        (lambda s: get(s.with_key("a", "metrics"), "models"), 403, "permission_error", "scope_missing", False),
        (lambda s: get(s, "models", origin="https://a.example"), 403, "permission_error", "origin_not_allowed", False),
        (lambda s: get(s, "embeddings"), 404, "invalid_request_error", "path_not_found", False),
        (lambda s: s.get("/v1"), 404, "invalid_request_error", "path_not_found", False),
        (lambda s: s.get("/v1/mod%0Aels"), 404, "invalid_request_error", "path_not_found", False),
        (lambda s: get(s, "responses/resp_t1"), 404, "invalid_request_error", "task_not_found", False),
        (lambda s: get(s, "responses/a%20b"), 404, "invalid_request_error", "task_not_found", False),
        (lambda s: get(s, "conversations/a%20b"), 404, "invalid_request_error", "conversation_not_found", False),
        (lambda s: s.call("PUT", "/v1/models"), 405, "invalid_request_error", "method_not_allowed", False),
        (
            lambda s: s.call("POST", "/v1/responses", headers=asgi.JSON | {"content-length": "9" * 9}),
            413,
            "invalid_request_error",
            "body_too_large",
            False,
        ),
        (
            lambda s: s.call("POST", "/v1/responses", parts=[b"{}"]),
            415,
            "invalid_request_error",
            "content_type_not_json",
            False,
        ),
        (lambda s: post(s, "responses", []), 422, "invalid_request_error", "invalid_input", False),
        (lambda s: get(s, "models?page=1"), 422, "invalid_request_error", "unknown_parameter", False),
        (lambda s: post(s, "responses", HELLO | {"role": "x"}), 422, "invalid_request_error", "unknown_name", False),
        (lambda s: with_spent_money(s, reserved=True), 429, "rate_limit_error", "usd_per_day_reserved", True),
        (above("requests_per_minute"), 429, "rate_limit_error", "requests_per_minute_exceeded", True),
        (above("tasks_in_flight"), 429, "rate_limit_error", "tasks_in_flight_exceeded", True),
        (failing(RuntimeError("a bug")), 500, "server_error", "internal_error", False),
        (failing(StorageDamaged("tasks.db", "The page is wrong.")), 500, "server_error", "storage_damaged", False),
        (failing(DOWN), 503, "server_error", "storage_unavailable", True),
        (failing(RecordUnreadable()), 503, "server_error", "record_unreadable", True),
    ],
)
def test_every_error_has_the_form_of_openai(
    server: CalledServer, call: Call, status: int, kind: str, code: str, repeats: bool
) -> None:
    """A refusal that the same call meets again says `x-should-retry: false`; the others say when to try again."""
    answer = call(server)
    error = refused(answer)

    assert (answer.status, error["type"], error["code"]) == (status, kind, code)
    assert answer.headers.get("x-should-retry") == (None if repeats else "false")
    assert ("retry-after" in answer.headers) == repeats
    assert int(answer.headers.get("retry-after", 0)) <= dialect_errors.MAX_RETRY_AFTER_S
    assert answer.headers["x-request-id"]


def test_headers_of_the_native_error_stay(server: CalledServer) -> None:
    assert server.call("PUT", "/v1/models").headers["allow"] == "GET, HEAD, OPTIONS"
    assert without_a_key(server).headers["www-authenticate"] == "Bearer"


def test_the_sentence_is_that_of_the_native_api(server: CalledServer) -> None:
    native = server.get("tasks", host="example.com")

    assert refused(get(server, "models", host="example.com"))["message"] == native.detail


def test_native_paths_keep_their_form(server: CalledServer) -> None:
    """`asgi.Answer.json` checks it."""
    assert server.get("nowhere").code == "path_not_found"
    assert server.get("/v1x").code == "path_not_found"


@pytest.mark.parametrize("text", ["a", "-1", "1.5", "", "%C2%B2", "9" * 30])
def test_a_cursor_that_is_not_a_number_is_a_400(server: CalledServer, text: str) -> None:
    answer = get(server, f"responses/resp_t1?stream=true&starting_after={text}")

    assert (answer.status, refused(answer)["param"]) == (400, "starting_after")


def test_the_fields_of_a_fault_are_named_as_clients_know_them(server: CalledServer) -> None:
    body = {"model": "auto", "input": "x", "conversation": "conv_nowhere"}
    error = refused(post(server, "responses", body))

    assert (error["param"], error["message"][:27]) == ("conversation", "conversation names no conve")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("responses", {"input": " "}, "input"),
        ("chat/completions", {"model": "auto", "messages": [{"role": "user", "content": " "}]}, "messages"),
    ],
)
def test_a_blank_prompt_is_a_fault_of_the_field_that_has_it(
    server: CalledServer, path: str, body: dict[str, object], field: str
) -> None:
    error = refused(post(server, path, body))

    assert (error["param"], error["message"][:20]) == (field, "The prompt is blank;")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("responses", HELLO),
        ("responses", HELLO | {"stream": True}),
        ("chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "x"}], "stream": True}),
    ],
)
def test_an_accepted_task_is_not_sent_again(server: CalledServer, path: str, body: dict[str, object]) -> None:
    """The database fails after the task was stored: another call would make another task."""
    answer = post(server.on(FailingStore(server.store, DOWN, "get")), path, body)
    task_id = answer.headers["x-llm-server-task-id"]

    assert (answer.status, refused(answer)["code"]) == (503, "storage_unavailable")
    assert answer.headers["x-should-retry"] == "false"
    assert refused(answer)["message"].endswith(f"Read it at GET /v1/responses/resp_{task_id}.")
    assert get(server, f"responses/{task_id}").status == 200


def test_waits_are_bounded(server: CalledServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect_errors, "MAX_RETRY_AFTER_S", 2)

    assert above("tasks_in_flight")(server).headers["retry-after"] == "2"
