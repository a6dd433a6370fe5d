"""Conversations over HTTP: tasks that follow one another, and the records that hold them together."""

from __future__ import annotations

import pytest

from support.in_process_server import CalledServer

UNKNOWN = "01a205c3-cd94-748c-a7f0-50965914d0b5"


def begun(server: CalledServer) -> str:
    answer = server.call("POST", "conversations")
    assert answer.status == 201, answer.body
    assert dict(answer.headers)["location"] == f"/api/v1/conversations/{answer.json['conversation_id']}"
    assert answer.json["tasks"] == []
    return str(answer.json["conversation_id"])


def test_a_conversation_lists_its_tasks_in_order(server: CalledServer) -> None:
    conversation, ids = begun(server), list[str]()
    for prompt in ("Say 1.", "Say 2."):
        ids.append(server.created(prompt, conversation_id=conversation))
        server.work()

    listed = server.get(f"conversations/{conversation}").json
    second = server.get(f"tasks/{ids[1]}").json

    assert [task["task_id"] for task in listed["tasks"]] == ids
    assert listed["created_at"] <= listed["updated_at"]
    assert (second["previous_task_id"], second["conversation_id"]) == (ids[0], conversation)
    assert (second["turns_before"], second["turns_dropped"]) == (1, 0)
    assert second["attempts"][0]["turns_dropped"] == 0


def test_a_task_without_turns_says_so(server: CalledServer) -> None:
    task = server.get(f"tasks/{server.created()}").json

    assert (task["previous_task_id"], task["conversation_id"], task["turns_before"]) == (None, None, 0)


@pytest.mark.parametrize("path", ["tasks", "tasks/quote", "tasks?dry_run=true"])
@pytest.mark.parametrize("field", ["previous_task_id", "conversation_id"])
@pytest.mark.parametrize("value", [UNKNOWN, "a/b", "", 7])
def test_what_is_not_there_is_named(server: CalledServer, path: str, field: str, value: object) -> None:
    answer = server.post({"prompt": "Why?", field: value}, path)

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, f"/{field}")


@pytest.mark.parametrize("path", ["tasks", "tasks/quote"])
def test_an_open_task_holds_up_its_conversation(server: CalledServer, path: str) -> None:
    conversation = begun(server)
    first = server.created(conversation_id=conversation)

    by_conversation = server.post({"prompt": "Why?", "conversation_id": conversation}, path)
    by_task = server.post({"prompt": "Why?", "previous_task_id": first}, path)

    assert [(a.status, a.code, a.json["retryable"]) for a in (by_conversation, by_task)] == [
        (409, "conversation_busy", True),
        (409, "previous_task_open", True),
    ]


def test_a_deleted_conversation_is_gone_with_its_tasks(server: CalledServer) -> None:
    conversation = begun(server)
    task_id = server.created(conversation_id=conversation)
    path = f"conversations/{conversation}"

    assert server.call("DELETE", path).status == 204

    assert [server.call(method, path).code for method in ("GET", "DELETE")] == ["conversation_not_found"] * 2
    assert server.get(f"tasks/{task_id}").code == "task_not_found"


def test_another_tenant_s_conversation_is_answered_as_an_unknown_one(server: CalledServer) -> None:
    mine, other = server.with_key("acme"), server.with_key("globex")
    conversation = begun(mine)
    task_id = mine.created(conversation_id=conversation)
    mine.work()

    for method in ("GET", "DELETE"):
        foreign, unknown = (other.call(method, f"conversations/{name}") for name in (conversation, UNKNOWN))
        assert (foreign.status, foreign.detail) == (unknown.status, unknown.detail) == (404, unknown.detail)
    for field, name in (("conversation_id", conversation), ("previous_task_id", task_id)):
        foreign, unknown = (other.post({"prompt": "Why?", field: value}) for value in (name, UNKNOWN))
        assert (foreign.status, foreign.detail) == (unknown.status, unknown.detail) == (422, unknown.detail)
    assert mine.get(f"conversations/{conversation}").status == 200


def test_conversations_need_the_scope_of_tasks(server: CalledServer) -> None:
    assert server.with_key("acme", "metrics").call("POST", "conversations").code == "scope_missing"
