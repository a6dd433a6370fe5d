"""Every route calls the store through the executor: the embedded server's event loop never waits for the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llm_server import wiring
from llm_server.api.app import create_app
from support import asgi
from support.in_process_server import CalledServer, called_server
from support.recording_executor import OnlyInside, RecordingExecutor

TASK = "tasks/{task_id}"
CALLS: list[tuple[str, str, object, str]] = [
    ("POST", "tasks", {"prompt": "Say hello."}, "write"),
    ("POST", "tasks?dry_run=true", {"prompt": "Say hello."}, "read"),
    ("POST", "tasks/quote", {"prompt": "Say hello."}, "read"),
    ("GET", "tasks", None, "read"),
    ("GET", TASK, None, "read"),
    ("GET", TASK + "/events", None, "read"),
    ("POST", TASK + "/approve", {"plan_hash": "0" * 64}, "write"),
    ("POST", TASK + "/reject", {"plan_hash": "0" * 64}, "write"),
    ("POST", TASK + "/cancel", None, "write"),
    ("POST", TASK + "/retry", None, "write"),
    ("DELETE", TASK, None, "write"),
    ("POST", "conversations", None, "write"),
    ("GET", "conversations/{conversation_id}", None, "read"),
    ("DELETE", "conversations/{conversation_id}", None, "write"),
    ("GET", "metrics", None, "read"),
    ("GET", "usage", None, "read"),
    ("GET", "catalog", None, "read"),
    ("GET", "engines", None, "read"),
    ("PATCH", "engines/{name}", {"toggle": False}, "write"),
    ("GET", "keys", None, "read"),
    ("POST", "keys", {"tenant": "acme", "scopes": ["tasks"]}, "write"),
    ("PATCH", "keys/{key_id}", {"name": "CI"}, "write"),
    ("DELETE", "keys/{key_id}", None, "write"),
    ("GET", "health", None, ""),
]
"""Each route with a body for it, and how it must run its use case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A server whose store fails outside its executor. `key_id` is the key that its calls send."""

    server: CalledServer
    run: RecordingExecutor
    key_id: str


@pytest.fixture
def run() -> RecordingExecutor:
    return RecordingExecutor()


@pytest.fixture
def recorded(tmp_path: Path, run: RecordingExecutor) -> Iterator[Recorded]:
    with called_server(tmp_path) as usual:
        keyed = usual.with_key()
        guarded = usual.on(OnlyInside(usual.store, run), OnlyInside(usual.keys, run))
        app = create_app(guarded.service, wiring.new_id, executor=run, open_without_keys=True)
        server = replace(guarded, app=app, headers=keyed.headers)
        assert server.get("tasks").status == 200
        yield Recorded(server=server, run=run, key_id=keyed.headers["authorization"].split("_")[1])


@pytest.mark.parametrize(("method", "path", "body", "kind"), CALLS)
def test_each_route_runs_one_use_case(recorded: Recorded, method: str, path: str, body: object, kind: str) -> None:
    """A use case that may store something is run by `write`. The caller's key is in memory, so it costs no read."""
    task_id = recorded.server.created()
    target = path.replace("{task_id}", task_id).replace("{name}", "embedded")
    target = target.replace("{key_id}", recorded.key_id)
    if "{conversation_id}" in target:
        conversation = recorded.server.call("POST", "conversations").json["conversation_id"]
        target = target.replace("{conversation_id}", conversation)
    recorded.run.kinds.clear()
    answer = recorded.server.call(
        method, target, headers=asgi.JSON, parts=[] if body is None else [json.dumps(body).encode()]
    )

    assert answer.status in (200, 201, 202, 204, 409), answer.body  # 409: the task has no plan, or has not failed
    assert recorded.run.kinds == ([kind] if kind else [])


def test_the_table_has_every_route(server: CalledServer) -> None:
    described = {
        (m.upper(), path) for path, methods in server.get("openapi.json").json["paths"].items() for m in methods
    }

    assert {(method, f"/api/v1/{path.partition('?')[0]}") for method, path, _, _ in CALLS} == described


def test_a_key_that_is_not_in_memory_is_read_by_the_executor(recorded: Recorded) -> None:
    """After that, the process knows the key. An invalid key is refused without asking, an unknown one after a read."""
    recorded.run.is_running = True  # this key is made by another process
    other = recorded.server.on().with_key()
    recorded.run.is_running = False
    server, kinds = replace(recorded.server, headers=other.headers), recorded.run.kinds
    kinds.clear()
    statuses = [server.get("tasks").status for _ in range(2)]
    known = kinds.copy()
    kinds.clear()
    malformed = replace(server, headers={"x-api-key": "llms_1"}).get("tasks").status, kinds.copy()
    token = f"llms_{'f' * 12}_{'0' * 64}"
    unknown = replace(server, headers={"x-api-key": token}).get("tasks").status, kinds

    assert (statuses, known) == ([200, 200], ["read", "read", "read"])
    assert (malformed, unknown) == ((401, []), (401, ["read"]))


def test_a_limited_request_is_counted_by_a_write(tmp_path: Path, run: RecordingExecutor) -> None:
    with called_server(tmp_path) as usual:
        limited = usual.with_key(requests_per_minute=60)
        guarded = usual.on(OnlyInside(usual.store, run), OnlyInside(usual.keys, run))
        app = create_app(guarded.service, wiring.new_id, executor=run)
        server = replace(guarded, app=app, headers=limited.headers)
        answer = server.get("tasks")

    assert (answer.status, answer.headers["ratelimit-policy"]) == (200, '"requests";q=60;w=60')
    assert run.kinds == ["read", "write", "read"]


def test_without_keys_the_store_is_asked_once_a_second_for_keys(tmp_path: Path, run: RecordingExecutor) -> None:
    """Not for each call: the answer of the last second is used, and a key of this process counts at once."""
    with called_server(tmp_path) as usual:
        guarded = usual.on(OnlyInside(usual.store, run), OnlyInside(usual.keys, run))
        server = replace(guarded, app=create_app(guarded.service, wiring.new_id, executor=run, open_without_keys=True))
        first = server.get("tasks").status, run.kinds.copy()
        run.kinds.clear()
        second = server.get("catalog").status, run.kinds.copy()
        made = server.post({"tenant": "acme", "scopes": ["tasks"]}, "keys").status
        third = server.get("tasks").status

    assert (first, second) == ((200, ["read", "read"]), (200, ["read"]))
    assert (made, third) == (201, 401)


def test_the_first_key_of_another_process_is_used_at_once_by_a_call_that_sends_it(server: CalledServer) -> None:
    """Other calls notice it within a second. Without this, the key's first task would belong to the tenant `local`."""
    before = server.get("tasks").status
    keyed = server.on().with_key()
    elsewhere = replace(server, headers=keyed.headers)

    assert (before, server.get("tasks").status) == (200, 200)
    assert elsewhere.get("usage").json["tenant"] == "acme"
    assert server.get("tasks").status == 401


def test_a_call_that_waits_watches_its_task_inside_the_use_case_that_stores_it(recorded: Recorded) -> None:
    """So the end is not missed: the task cannot end before it is committed. A call that does not wait has no watch."""
    recorded.server.created()
    answer = recorded.server.post({"prompt": "Say hello."}, prefer="wait=20")

    assert (answer.status, "preference-applied" in answer.headers) == (202, False)
    assert [(ref.task_id, inside) for ref, inside in recorded.run.watched] == [(answer.json["task_id"], True)]


def test_a_replayed_task_that_is_final_is_answered_at_once(recorded: Recorded) -> None:
    """The task is not watched and not read again; the wish to wait is granted."""
    task_id = recorded.server.post({"prompt": "Say hello."}, idempotency_key="k").json["task_id"]
    assert recorded.server.post({}, f"tasks/{task_id}/cancel").status == 200
    recorded.run.kinds.clear()
    answer = recorded.server.post({"prompt": "Say hello."}, idempotency_key="k", prefer="wait=20")

    assert (answer.status, answer.json["status"], answer.headers["idempotent-replayed"]) == (200, "Cancelled", "true")
    assert answer.headers["preference-applied"] == "wait=20"
    assert (recorded.run.kinds, recorded.run.watched) == (["write"], [])
