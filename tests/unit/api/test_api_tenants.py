"""Isolation of tenants: on every route, another tenant's task looks as if it did not exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_server.orchestration.domain.plan import Plan, Step, digest
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.task import Task
from llm_server.storage.sqlite.store import SqliteStore
from support import asgi
from support.builders import NOW_MS, a_request, a_task, an_output, claimed
from support.in_process_server import CalledServer, called_server

UNKNOWN = "0197-unknown-task"
PLAN = Plan(goal="The goal.", steps=(Step(id="a", role="Writing-Agent", instruction="Write."),)).to_json()
BODIES = {"approve": {"plan_hash": digest(PLAN)}, "reject": {"plan_hash": digest(PLAN)}}
"""Valid bodies by the last part of the path."""


def stored(store: Store, tenant: str) -> dict[str, str]:
    """Store a task of the tenant in every state; return their ids by state."""
    made: dict[str, Task] = {
        name: a_task(tenant=tenant) for name in ("queued", "working", "awaiting", "done", "failed")
    }
    for task in made.values():
        store.add(task, a_request("The secret of Acme."))
    working = {name: claimed(task) for name, task in made.items() if name != "queued"}
    for name, task in working.items():
        store.save(made[name], task)
    plan = an_output("PLAN", PLAN)
    store.save(working["awaiting"], working["awaiting"].awaiting_approval(plan, due_ms=NOW_MS + 10**9), plan)
    answer = an_output()
    store.keep(working["done"].ref, answer)
    store.save(working["done"], working["done"].completed(answer))
    failure = an_output("TRY#1", None, error="No.")
    store.save(working["failed"], working["failed"].failed(failure), failure)
    return {name: task.task_id for name, task in made.items()}


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CalledServer, CalledServer, dict[str, str]]]:
    """Yield a caller of Acme, which has tasks in every state; a caller of Globex; and the ids of Acme's tasks."""
    with called_server(tmp_path_factory.mktemp("tenants")) as server:
        acme = server.with_key("acme", "tasks")
        globex = server.with_key("globex", "tasks")
        yield acme, globex, stored(server.store, "acme")


Houses = tuple[CalledServer, CalledServer, dict[str, str]]


def of_a_task(server: CalledServer) -> list[tuple[str, str]]:
    """List every method and path that names a task."""
    found = [(m.upper(), path) for path, methods in server.app.openapi()["paths"].items() for m in methods]
    return [(method, path) for method, path in found if "{task_id}" in path]


def shown(answer: asgi.Answer) -> tuple[int, bytes, dict[str, str]]:
    """Return all parts of an answer except its request id."""
    headers = dict(answer.headers)
    return answer.status, answer.body.replace(headers.pop("x-request-id").encode(), b""), headers


def test_every_route_answers_the_same_for_another_tenants_task_as_for_an_unknown_one(houses: Houses) -> None:
    """In every state, byte for byte, even if the caller knows the ETag and the plan."""
    acme, globex, ids = houses
    for method, path in of_a_task(acme):
        body = json.dumps(BODIES.get(path.rpartition("/")[2], {})).encode()
        for headers in ({}, {"if-none-match": "*"}, {"if-none-match": '"2"'}, {"idempotency-key": "k-1"}):
            options: dict[str, Any] = {"headers": asgi.JSON | headers, "parts": [body]}
            none = shown(globex.call(method, path.replace("{task_id}", UNKNOWN), **options))
            for task_id in ids.values():
                foreign = shown(globex.call(method, path.replace("{task_id}", task_id), **options))

                assert foreign == none, (method, path)
                assert none[0] == 404, (method, path)


def test_the_owner_can_read_each_of_them(houses: Houses) -> None:
    """Without this the test above would prove nothing. The calls of the other tenant have not changed the tasks."""
    acme, _, ids = houses

    statuses = [acme.get(f"tasks/{task_id}").json["status"] for task_id in ids.values()]
    assert statuses == ["Queued", "Processing", "Planned", "Completed", "Failed"]
    assert acme.get(f"tasks/{ids['awaiting']}").json["awaiting_approval"] is True


def test_a_listing_has_only_the_callers_own_tasks(houses: Houses) -> None:
    """With every filter, and also from the page token of another tenant."""
    acme, globex, ids = houses
    own = globex.created()
    token = acme.get("tasks?page_size=1").json["next_page_token"]
    queries = ("", "?status=Completed", "?role=Chat-Agent", "?page_size=100", f"?page_token={token}")
    seen = {t["task_id"] for query in queries for t in globex.get(f"tasks{query}").json["tasks"]}

    assert seen == {own}
    assert {t["task_id"] for t in acme.get("tasks?page_size=100").json["tasks"]} == set(ids.values())


def test_usage_shows_only_the_callers_tenant(houses: Houses) -> None:
    acme, globex, _ = houses

    assert [house.get("usage").json["tenant"] for house in (acme, globex)] == ["acme", "globex"]
    assert b"acme" not in globex.get("usage").body


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 100),
    state=st.sampled_from(["queued", "working", "awaiting", "done", "failed"]),
    body=st.one_of(st.binary(max_size=60), st.just(json.dumps(BODIES["approve"]).encode())),
    headers=st.dictionaries(
        st.sampled_from(["if-none-match", "prefer", "idempotency-key", "content-type", "x-tenant", "cookie"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    ),
    query=st.sampled_from(["", "?tenant=acme", "?dry_run=true", "?x=1"]),
)
def test_no_body_header_or_query_gives_access_to_another_tenants_task(
    houses: Houses, which: int, state: str, body: bytes, headers: dict[str, str], query: str
) -> None:
    acme, globex, ids = houses
    routes = of_a_task(acme)
    method, path = routes[which % len(routes)]
    options: dict[str, Any] = {"headers": asgi.JSON | headers, "parts": [body]}

    answers = [
        globex.call(method, path.replace("{task_id}", name) + query, **options) for name in (ids[state], UNKNOWN)
    ]
    assert shown(answers[0]) == shown(answers[1])
    assert answers[0].status >= 400


class NotedStore:
    """Records the names of the methods that are used, and passes the calls on."""

    def __init__(self, inner: SqliteStore) -> None:
        self._inner = inner
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.called.append(name)
        found: Callable[..., Any] = getattr(self._inner, name)
        return found


def test_the_store_is_read_the_same_way_for_another_tenants_task_as_for_an_unknown_one(houses: Houses) -> None:
    """So the duration of an answer reveals nothing either."""
    acme, globex, ids = houses
    noted = NotedStore(acme.store)
    server = replace(acme.on(noted), headers=globex.headers)
    asked: dict[str, list[list[str]]] = {}
    for method, path in of_a_task(server):
        body = json.dumps(BODIES.get(path.rpartition("/")[2], {})).encode()
        for task_id in (*ids.values(), UNKNOWN):
            noted.called.clear()
            server.call(method, path.replace("{task_id}", task_id), headers=asgi.JSON, parts=[body])
            asked.setdefault(f"{method} {path}", []).append(list(noted.called))

    assert all(each == calls[0] != [] for calls in asked.values() for each in calls), asked
