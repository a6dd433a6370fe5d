"""Error codes: docs/api.md lists each with its status, and for each there is a call that gets it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from llm_server.api.error_codes import ERROR_CODES
from llm_server.orchestration.domain import errors
from llm_server.orchestration.domain.api_key import Account, Key
from llm_server.orchestration.domain.conversation import MAX_TASKS, Conversation
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import (
    LLMServerError,
    RecordUnreadable,
    StorageDamaged,
    StorageMisconfigured,
    StorageMissing,
)
from llm_server.orchestration.domain.ports.keys import KeyStore
from llm_server.orchestration.domain.task import TaskRef
from support import asgi
from support.in_process_server import DOWN, CalledServer, FailingStore

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (\d{3}) \| .+ \| .+ \| (yes|no) \|$", re.MULTILINE)
OUTSIDE = {
    "not_http",
    "host_invalid",
    "body_not_base64",
    "request_timeout",
    "uri_too_long",
    "headers_too_large",
    "method_unknown",
    "transfer_encoding_unknown",
    "too_many_connections",
    "http_version_unsupported",
}
"""Codes of what the app does not see: tests/e2e/test_http_edge.py, test_connections.py, test_aws.py; unit/embedded."""


def test_the_documented_codes_are_those_of_the_code() -> None:
    """Name, status and retryable agree."""
    documented = [(name, int(status), retryable == "yes") for name, status, retryable in ROW.findall(PAGE)]

    assert documented == [(name, code.status, code.retryable) for name, code in ERROR_CODES.items()]


def test_the_code_of_every_error_class_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LLMServerError)]
    of_classes = {code for kind in kinds if isinstance(code := vars(kind).get("code"), str)}
    literals = (errors.InputCode, errors.ConflictCode, errors.ApprovalCode, errors.KeyConflictCode)
    of_causes = {code for literal in literals for code in get_args(literal)}

    assert (len(of_classes), len(of_causes)) >= (11, 15)
    assert of_classes | of_causes <= ERROR_CODES.keys()


Call = Callable[[CalledServer], asgi.Answer]


def failing(error: Exception) -> Call:
    return lambda server: server.on(FailingStore(server.store, error)).get("usage")


def without_the_key(server: CalledServer) -> asgi.Answer:
    server.with_key()
    return server.get("tasks")


def to_a_locked_engine(server: CalledServer) -> asgi.Answer:
    server.service.switch_engine("embedded", {"locked": True})
    return server.post({"prompt": "x", "engine": "embedded"})


def completed(server: CalledServer) -> str:
    task_id = server.created()
    server.work()
    return task_id


def planned(server: CalledServer, **fields: object) -> tuple[str, str]:
    """Create a task whose plan waits for approval; return its id and the plan's hash."""
    task_id = server.created("Design a cache, then test it.", mode="Plan", plan_approval=True, **fields)
    server.work()
    return task_id, server.get(f"tasks/{task_id}").json["plan"]["hash"]


def decided(server: CalledServer, task_id: str, plan_hash: str, word: str = "approve") -> asgi.Answer:
    return server.post({"plan_hash": plan_hash}, f"tasks/{task_id}/{word}")


def at_work(server: CalledServer) -> asgi.Answer:
    task = server.store.peek(TaskRef("local", server.created()))
    now_ms = server.service.now_ms()
    server.store.save(task, task.claimed(owner="w", now_ms=now_ms, lease_ms=now_ms + 60_000, has_plan=False))
    return server.call("DELETE", f"tasks/{task.task_id}")


def cancelled(server: CalledServer) -> str:
    task_id = server.created()
    server.call("POST", f"tasks/{task_id}/cancel")
    return task_id


def following(server: CalledServer, task_id: str) -> asgi.Answer:
    return server.post({"prompt": "x", "previous_task_id": task_id})


def talked(server: CalledServer, *, tasks: int = 1, conversation_id: str = "") -> asgi.Answer:
    conversation_id = conversation_id or server.call("POST", "conversations").json["conversation_id"]
    return [server.post({"prompt": "x", "conversation_id": conversation_id}) for _ in range(tasks)][-1]


def in_a_full_conversation(server: CalledServer) -> asgi.Answer:
    full = Conversation(tenant="local", conversation_id="c1", created_ms=1, updated_ms=server.service.now_ms())
    full = replace(full, task_ids=tuple(f"t{n}" for n in range(MAX_TASKS)))
    server.store.add_conversation(full)
    return talked(server, conversation_id="c1")


class ChangingStore(FailingStore):
    """A store in which another writer always saves first."""

    def __init__(self, server: CalledServer) -> None:
        super().__init__(server.store, errors.TaskLost("t"), "save")


def rejected_after_approval(server: CalledServer) -> asgi.Answer:
    task_id, plan_hash = planned(server)
    decided(server, task_id, plan_hash)
    return decided(server, task_id, plan_hash, "reject")


def approved_with_a_key_for_hosted_engines(server: CalledServer) -> asgi.Answer:
    task_id, plan_hash = planned(server)
    return decided(server.with_key("local", sources=("api",)), task_id, plan_hash)


def approved_too_late(server: CalledServer) -> asgi.Answer:
    task_id, plan_hash = planned(server, limits={"deadline_s": 604_800})
    task = server.store.peek(TaskRef("local", task_id))
    server.store.save(task, replace(task, deadline_ms=1, rev=task.rev + 1))
    return decided(server, task_id, plan_hash)


def used_again(server: CalledServer, *, deleted: bool) -> asgi.Answer:
    first = server.post({"prompt": "x"}, idempotency_key="k")
    if deleted:
        server.call("DELETE", f"tasks/{first.json['task_id']}")
    return server.post({"prompt": "x" if deleted else "y"}, idempotency_key="k")


def above(limit: str, most: int, *, calls: int = 2) -> Call:
    def call(server: CalledServer) -> asgi.Answer:
        caller = server.with_key("acme", "tasks", **{limit: most})
        return [caller.post({"prompt": "x"}) for _ in range(calls)][-1]

    return call


def money(*, reserved: bool) -> Call:
    """Use a key whose 100 micro-USD of the day are charged, either by a call that ended or by one in progress."""

    def call(server: CalledServer) -> asgi.Answer:
        caller = server.with_key("acme", "tasks", microusd_per_day=100)
        key_id = caller.headers["authorization"].split("_")[1]
        account = Account(key_id, day_of(server.service.now_ms()))
        server.keys.reserve(account, "c#1", 100, max_microusd=100)
        if not reserved:
            server.keys.settle(account, "c#1", 100, 100)
        return caller.post({"prompt": "x"})

    return call


NEW_KEY = {"tenant": "acme", "scopes": ["tasks"]}


def new_key(server: CalledServer) -> Key:
    """Create a key with an Idempotency-Key."""
    admin = server.with_key()
    made = admin.post(NEW_KEY, "keys", idempotency_key="k")
    key = server.keys.key(made.json["key_id"])
    assert key is not None
    return key


def of_a_revoked_key(server: CalledServer) -> asgi.Answer:
    key = new_key(server)
    admin = server.with_key()
    admin.call("DELETE", f"keys/{key.key_id}")
    return admin.call("PATCH", f"keys/{key.key_id}", headers=asgi.JSON, parts=[b'{"name": "x"}'])


def of_an_expired_key(server: CalledServer) -> asgi.Answer:
    key = new_key(server)
    assert server.keys.swap_key(key, replace(key, expires_ms=1))
    return server.with_key().post(NEW_KEY, "keys", idempotency_key="k")


class ChangingKeys:
    """A key store in which another writer always changes the key first."""

    def __init__(self, inner: KeyStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def swap_key(self, before: Key, after: Key) -> bool:
        return False


def of_a_changing_key(server: CalledServer) -> asgi.Answer:
    key, admin = new_key(server), server.with_key()
    changing = dataclasses.replace(server.on(keys=ChangingKeys(server.keys)), headers=admin.headers)
    return changing.call("PATCH", f"keys/{key.key_id}", headers=asgi.JSON, parts=[b'{"name": "x"}'])


CALLS: dict[str, Call] = {
    "body_empty": lambda server: server.post(b" "),
    "body_encoding_invalid": lambda server: server.post(b'{"prompt": "\xff"}'),
    "body_json_invalid": lambda server: server.post(b"{"),
    "body_key_repeated": lambda server: server.post(b'{"prompt": "x", "prompt": "x"}'),
    "body_number_invalid": lambda server: server.post(b'{"prompt": NaN}'),
    "body_too_deep": lambda server: server.post(b"[" * 100_000),
    "unauthenticated": without_the_key,
    "scope_missing": lambda server: server.with_key("acme", "tasks").get("metrics"),
    "host_not_allowed": lambda server: server.get("tasks", host="example.com"),
    "origin_not_allowed": lambda server: server.get("tasks", origin="https://example.com"),
    "path_not_found": lambda server: server.get("nowhere"),
    "task_not_found": lambda server: server.get("tasks/t1"),
    "conversation_not_found": lambda server: server.get("conversations/c1"),
    "engine_not_found": lambda server: server.call(
        "PATCH", "engines/x", headers=asgi.JSON, parts=[b'{"toggle": true}']
    ),
    "key_not_found": lambda server: server.call("DELETE", "keys/k1"),
    "method_not_allowed": lambda server: server.call("PUT", "tasks"),
    "task_final": lambda server: server.call("POST", f"tasks/{completed(server)}/cancel"),
    "task_not_failed": lambda server: server.call("POST", f"tasks/{server.created()}/retry"),
    "task_in_progress": at_work,
    "task_changing": lambda server: server.on(ChangingStore(server)).call("POST", f"tasks/{server.created()}/cancel"),
    "sources_conflict": approved_with_a_key_for_hosted_engines,
    "no_plan_awaiting_approval": lambda server: decided(server, server.created(), "x"),
    "plan_changed": lambda server: decided(server, planned(server)[0], "x"),
    "plan_already_decided": rejected_after_approval,
    "deadline_passed": approved_too_late,
    "idempotency_key_task_deleted": lambda server: used_again(server, deleted=True),
    "previous_task_open": lambda server: following(server, server.created()),
    "previous_task_not_completed": lambda server: following(server, cancelled(server)),
    "conversation_busy": lambda server: talked(server, tasks=2),
    "conversation_full": in_a_full_conversation,
    "key_revoked": of_a_revoked_key,
    "key_expired": of_an_expired_key,
    "key_changing": of_a_changing_key,
    "body_too_large": lambda server: server.call("POST", "tasks", headers=asgi.JSON | {"content-length": "9" * 9}),
    "content_type_not_json": lambda server: server.call("POST", "tasks", parts=[b"{}"]),
    "content_encoding_not_accepted": lambda server: server.post({"prompt": "x"}, content_encoding="gzip"),
    "charset_not_utf8": lambda server: server.post({"prompt": "x"}, content_type="application/json; charset=latin-1"),
    "invalid_input": lambda server: server.post({}),
    "unknown_name": lambda server: server.post({"prompt": "x", "role": "x"}),
    "unknown_parameter": lambda server: server.get("tasks?created_after=2026-01-01"),
    "repeated_parameter": lambda server: server.get("tasks?page_size=1&page_size=2"),
    "engine_not_usable": to_a_locked_engine,
    "sources_not_usable": lambda server: server.post({"prompt": "x", "limits": {"sources": ["api"]}}),
    "content_not_usable": lambda server: server.post({"prompt": "x", "tools": [{"name": "f"}]}),
    "tool_results_invalid": lambda server: server.post({"tool_results": [{"call_id": "c1", "output": "x"}]}),
    "idempotency_key_reused": lambda server: used_again(server, deleted=False),
    "requests_per_minute_exceeded": above("requests_per_minute", 1),
    "tasks_in_flight_exceeded": above("tasks_in_flight", 1),
    "usd_per_day_spent": money(reserved=False),
    "usd_per_day_reserved": money(reserved=True),
    "internal_error": failing(RuntimeError("a bug")),
    "storage_damaged": failing(StorageDamaged("tasks.db", "The page is wrong.")),
    "storage_missing": failing(StorageMissing("tasks.db", "was removed", "Put it back.")),
    "storage_unavailable": failing(DOWN),
    "storage_misconfigured": failing(StorageMisconfigured("Check LLM_SERVER_TABLE.")),
    "record_unreadable": failing(RecordUnreadable()),
}


@pytest.mark.parametrize("code", [name for name in ERROR_CODES if name not in OUTSIDE])
def test_a_call_gets_each_code(server: CalledServer, code: str) -> None:
    """`asgi.Answer.json` checks that the body has all its members."""
    answer = CALLS[code](server)

    assert answer.code == code, answer.body
    assert ("retry-after" in answer.headers) == (answer.status in (429, 503))


def test_the_openapi_document_lists_every_code(server: CalledServer) -> None:
    """Codes are listed in the description and not as an enumeration, because more codes can be added."""
    described = server.get("openapi.json").json["components"]["schemas"]["Problem"]["properties"]["code"]

    assert [name for name in ERROR_CODES if f"`{name}`" not in described["description"]] == []
    assert "enum" not in described
