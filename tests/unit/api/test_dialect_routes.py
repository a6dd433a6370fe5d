"""The routes under `/v1`: models, chat completions, responses and conversations, on the real service."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi.routing import APIRoute

from llm_server import wiring
from llm_server.api import waiting
from llm_server.api.app import create_app
from llm_server.api.openai.routes import all_routes
from llm_server.orchestration.domain.task import TaskRef
from support import asgi, dialect
from support.dialect import Document, answered, get, post, refused
from support.in_process_server import CalledServer
from support.recording_executor import OnlyInside, RecordingExecutor

HELLO = {"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]}


def created(server: CalledServer, **more: Any) -> Document:
    """Create a response that is not waited for."""
    return answered(post(server, "responses", {"model": "auto", "input": "Say hello.", "background": True, **more}))


def done(server: CalledServer, **more: Any) -> Document:
    """Create a response, carry out its task, and read it again."""
    response = created(server, **more)
    server.work()
    return answered(get(server, f"responses/{response['id']}"))


def test_models_are_auto_the_modes_the_roles_and_the_engines(server: CalledServer) -> None:
    listed = [model["id"] for model in answered(get(server, "models"))["data"]]

    assert {"auto", "chat", "agent", "plan", "embedded", "Writing-Agent"} <= {*listed}
    assert answered(get(server, "models/writing-agent"))["id"] == "Writing-Agent"
    error = refused(get(server, "models/mistral%2Fsmall"))
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'mistral/small'" in error["message"]


def test_a_chat_completion_is_a_task_like_any_other(server: CalledServer) -> None:
    with server.working():
        answer = post(server, "chat/completions", HELLO | {"metadata": {"ticket": "4711"}})
    completion = answered(answer)
    task_id = answer.headers["x-llm-server-task-id"]
    task = server.get(f"tasks/{task_id}").json

    assert completion["id"] == f"chatcmpl-{task_id}"
    assert completion["choices"][0]["message"]["content"] == task["result"]
    assert (completion["receipt"], task["metadata"]) == (task["receipt"], {"ticket": "4711"})
    assert completion["llm_server"]["reasons"] == task["reasons"]
    assert (answer.headers["x-llm-server-mode"], answer.headers["x-llm-server-engine"]) == ("Chat", "embedded")
    assert answer.headers["llm-server-demonstration"] == "true"


def test_a_response_that_is_waited_for_is_completed(server: CalledServer) -> None:
    with server.working():
        response = answered(post(server, "responses", {"model": "agent", "input": "Say hello."}))

    assert (response["status"], response["llm_server"]["mode"]) == ("completed", "Agent")
    assert response == answered(get(server, f"responses/{response['id']}"))


def test_a_response_in_the_background_is_answered_at_once(server: CalledServer) -> None:
    response = created(server, model="Writing-Agent")

    assert (response["status"], response["output"], response["llm_server"]["role"]) == ("queued", [], "Writing-Agent")
    server.work()
    assert answered(get(server, f"responses/{response['id']}"))["status"] == "completed"


def test_what_is_not_done_in_time_is_answered_as_it_is(server: CalledServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS the gateway waits for 29 s: the response is queued with its id, and the completion is an error."""
    monkeypatch.setattr(waiting, "possible_s", lambda wish_s, scope: 0.01)

    response = answered(post(server, "responses", {"model": "auto", "input": "Say hello."}))
    answer = post(server, "chat/completions", HELLO)

    assert (response["status"], response["background"]) == ("queued", True)
    assert (answer.status, refused(answer)["code"]) == (504, "not_finished")
    assert f"GET /v1/responses/resp_{answer.headers['x-llm-server-task-id']}." in refused(answer)["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_an_idempotency_key_makes_one_task(server: CalledServer) -> None:
    body = {"model": "auto", "input": "Say hello.", "background": True}
    first, again = (answered(post(server, "responses", body, idempotency_key="k")) for _ in range(2))

    assert first["id"] == again["id"]
    error = refused(post(server, "responses", body | {"input": "Bye."}, idempotency_key="k"))
    assert error["code"] == "idempotency_key_reused"


def test_both_apis_see_the_same_tasks(server: CalledServer) -> None:
    task_id = server.created("Say hello.")

    for written in (task_id, f"resp_{task_id}", f"chatcmpl-{task_id}"):
        assert answered(get(server, f"responses/{written}"))["id"] == f"resp_{task_id}"
    assert server.get(f"tasks/{created(server)['llm_server']['task_id']}").status == 200


def test_a_response_follows_another(server: CalledServer) -> None:
    first = done(server)
    second = done(server, input="And in French?", previous_response_id=first["id"])

    assert second["previous_response_id"] == first["id"]
    assert server.get(f"tasks/{second['llm_server']['task_id']}").json["turns_before"] == 1


def test_a_response_before_must_exist_and_be_completed(server: CalledServer) -> None:
    body = {"model": "auto", "input": "x"}
    unknown = post(server, "responses", body | {"previous_response_id": "resp_nowhere"})
    open_ = post(server, "responses", body | {"previous_response_id": created(server)["id"]})

    error = refused(unknown)
    assert (unknown.status, error["param"]) == (422, "previous_response_id")
    assert error["message"].startswith("previous_response_id names no task")
    assert (open_.status, refused(open_)["code"]) == (409, "previous_task_open")
    assert "x-should-retry" not in open_.headers


def test_cancelling_is_repeatable_and_a_final_response_is_a_400(server: CalledServer) -> None:
    final, open_ = done(server), created(server)
    twice = [answered(post_cancel(server, open_["id"])) for _ in range(2)]
    refusal = post_cancel(server, final["id"])

    assert [response["status"] for response in twice] == ["cancelled", "cancelled"]
    assert (refusal.status, refused(refusal)["message"]) == (400, "Cannot cancel a completed response.")
    assert refusal.headers["x-should-retry"] == "false"


def post_cancel(server: CalledServer, response_id: str) -> asgi.Answer:
    return server.call("POST", f"/v1/responses/{response_id}/cancel")


def test_a_deleted_response_is_gone(server: CalledServer) -> None:
    response = created(server)
    deleted = answered(server.call("DELETE", f"/v1/responses/{response['id']}"))

    assert deleted == {"id": response["id"], "object": "response", "deleted": True}
    assert get(server, f"responses/{response['id']}").status == 404


def test_another_tenants_response_does_not_exist(server: CalledServer) -> None:
    acme, other = server.with_key("acme"), server.with_key("other")
    response = created(acme)

    for answer in (
        get(other, f"responses/{response['id']}"),
        get(other, f"responses/{response['id']}?stream=true"),
        get(other, f"responses/{response['id']}/input_items"),
        post_cancel(other, response["id"]),
        other.call("DELETE", f"/v1/responses/{response['id']}"),
    ):
        assert (answer.status, refused(answer)["code"]) == (404, "task_not_found")
    followed = post(other, "responses", {"input": "x", "previous_response_id": response["id"]})
    assert refused(followed)["param"] == "previous_response_id"


def test_the_input_of_a_response(server: CalledServer) -> None:
    response = created(server, input=[{"role": "user", "content": "Say hello."}])
    listed = answered(get(server, f"responses/{response['id']}/input_items?limit=1&order=asc&include[]=x"))

    assert listed["data"][0]["content"] == [{"type": "input_text", "text": "Say hello."}]
    assert not listed["has_more"]


def test_tokens_are_counted_without_a_task(server: CalledServer) -> None:
    counted = answered(post(server, "responses/input_tokens", {"model": "auto", "input": "x" * 40}))

    assert counted == {"object": "response.input_tokens", "input_tokens": 10}
    assert server.get("tasks").json["tasks"] == []


def test_a_conversation_lists_the_items_of_its_tasks(server: CalledServer) -> None:
    made = answered(post(server, "conversations", {"items": []}))
    done(server, conversation=made["id"])
    done(server, input="And in French?", conversation={"id": made["id"]})
    path = f"conversations/{made['id']}"
    newest = answered(get(server, f"{path}/items?limit=3"))
    rest = answered(get(server, f"{path}/items?after={newest['last_id']}"))

    assert answered(get(server, path)) == made
    assert [item["role"] for item in newest["data"]] == ["assistant", "user", "assistant"]
    assert newest["data"][1]["content"] == [{"type": "input_text", "text": "And in French?"}]
    assert ([item["role"] for item in rest["data"]], rest["has_more"]) == (["user"], False)
    deleted = answered(server.call("DELETE", f"/v1/{path}"))
    assert deleted == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    assert refused(get(server, path))["code"] == "conversation_not_found"


@pytest.mark.parametrize(
    "body", [{"items": [{"role": "user", "content": "x"}]}, {"metadata": {"a": "b"}}, {"title": "x"}]
)
def test_a_conversation_begins_empty(server: CalledServer, body: dict[str, Any]) -> None:
    answer = post(server, "conversations", body)

    assert (answer.status, refused(answer)["param"]) == (422, next(iter(body)))


def test_the_dialect_is_not_in_the_openapi_document(server: CalledServer) -> None:
    """Its clients are OpenAI's; docs/openai.md lists every field."""
    assert not [path for path in server.get("openapi.json").json["paths"] if path.startswith("/v1")]


def test_plan_that_waits_for_approval_has_its_quote(server: CalledServer) -> None:
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True)
    server.work()
    response = answered(get(server, f"responses/{task_id}"))

    assert (response["status"], response["llm_server"]["waiting_for"]) == ("in_progress", "approval")
    assert response["llm_server"]["quote"] == server.get(f"tasks/{task_id}").json["quote"]


def test_a_streamed_completion_ends_with_its_usage(server: CalledServer) -> None:
    with server.working():
        answer = post(server, "chat/completions", HELLO | {"stream": True, "stream_options": {"include_usage": True}})
    chunks = dialect.chunks(answer.body)
    snapshot = server.store.get(TaskRef("local", answer.headers["x-llm-server-task-id"]))
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert text == snapshot.result
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == snapshot.task.receipt.tokens_in + snapshot.task.receipt.tokens_out
    assert [c for c in chunks if c["choices"] and "role" in c["choices"][0]["delta"]] == chunks[:1]


CALLS: list[tuple[str, str, Document | None, list[str]]] = [
    ("GET", "models", None, []),
    ("GET", "models/auto", None, []),
    ("POST", "chat/completions", HELLO, ["write", "read"]),
    ("POST", "chat/completions", HELLO | {"stream": True}, ["write", "read"]),
    ("POST", "responses", {"input": "x"}, ["write", "read"]),
    ("POST", "responses", {"input": "x", "stream": True}, ["write", "read", "read"]),
    ("POST", "responses/input_tokens", {"input": "x"}, []),
    ("GET", "responses/{response_id}", None, ["read"]),
    ("GET", "responses/{response_id}?stream=true", None, ["read", "read"]),
    ("GET", "responses/{response_id}/input_items", None, ["read"]),
    ("POST", "responses/{response_id}/cancel", None, ["write"]),
    ("DELETE", "responses/{response_id}", None, ["write"]),
    ("POST", "conversations", {}, ["write"]),
    ("GET", "conversations/{conversation_id}", None, ["read"]),
    ("GET", "conversations/{conversation_id}/items", None, ["read"]),
    ("DELETE", "conversations/{conversation_id}", None, ["write"]),
]
"""Each route with a body for it, and how it must run its use cases."""


@pytest.mark.parametrize(("method", "path", "body", "kinds"), CALLS)
def test_each_route_calls_the_store_through_the_executor(
    server: CalledServer,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    body: Document | None,
    kinds: list[str],
) -> None:
    monkeypatch.setattr(waiting, "possible_s", lambda wish_s, scope: 0)
    run, keyed = RecordingExecutor(), server.with_key()
    guarded = server.on(OnlyInside(server.store, run), OnlyInside(server.keys, run))
    app = create_app(guarded.service, wiring.new_id, executor=run, open_without_keys=True)
    caller = replace(guarded, app=app, headers=keyed.headers)
    response_id = created(caller)["id"]
    conversation_id = answered(post(caller, "conversations", {}))["id"]
    run.kinds.clear()
    target = path.replace("{response_id}", response_id).replace("{conversation_id}", conversation_id)
    parts = [] if body is None else [json.dumps(body).encode()]
    answer = caller.call(method, f"/v1/{target}", headers=asgi.JSON if parts else {}, parts=parts)

    assert answer.status in (200, 504), answer.body
    assert run.kinds == kinds


def test_the_table_has_every_route() -> None:
    paths = {(method, path.partition("?")[0]) for method, path, *_ in CALLS}
    listed = {(method, path.replace("models/auto", "models/{model:path}")) for method, path in paths}
    routes = [route for route in all_routes() if isinstance(route, APIRoute)]

    assert {(method, r.path.removeprefix("/v1/")) for r in routes for method in r.methods or ()} == listed
