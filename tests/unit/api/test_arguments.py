"""The arguments of the routes are those that FastAPI itself would read, and so are the faults."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.dependencies.utils import solve_dependencies
from fastapi.routing import APIRoute

from llm_server.api.requests.arguments import Arguments
from llm_server.api.requests.routes import CALLER
from llm_server.api.routes import conversations, keys, server, task_changes, task_events, tasks
from llm_server.orchestration.domain.api_key import Caller

odd = APIRouter()


def _doubled(number: Annotated[int, Path()]) -> int:
    return 2 * number


@odd.get("/{number}")
async def read_odd(
    doubled: Annotated[int, Depends(_doubled)],
    size: Annotated[int, Query(ge=1)] = 1,
    depth: Annotated[int | None, Header()] = None,
) -> None:
    """Has the faults that no route of the API can have: in a dependency, and in a header."""


ROUTES = {
    route.name: route
    for router in (
        tasks.router,
        task_events.router,
        task_changes.router,
        server.router,
        server.engines,
        keys.router,
        server.health,
        conversations.router,
        odd,
    )
    for route in router.routes
    if isinstance(route, APIRoute)
}
PROMPT = {"prompt": "Say hello."}


def scope(query: str = "", *headers: tuple[str, str], **path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "path_params": path,
        "app": SimpleNamespace(state=SimpleNamespace(service="the service", executor="the executor")),
        CALLER: Caller(),
    }


def ours(route: APIRoute, called: dict[str, Any], body: object) -> tuple[dict[str, Any], list[Any]]:
    return Arguments(route.dependant).read(Request(called), body)


def frameworks(route: APIRoute, called: dict[str, Any], body: object) -> tuple[dict[str, Any], list[Any]]:
    async def solve() -> tuple[dict[str, Any], list[Any]]:
        async with AsyncExitStack() as stack:
            called["fastapi_inner_astack"] = called["fastapi_function_astack"] = stack
            solved = await solve_dependencies(
                request=Request(called),
                dependant=route.dependant,
                body=body,
                async_exit_stack=stack,
                embed_body_fields=False,
            )
        return solved.values, solved.errors

    return asyncio.run(solve())


CALLS: list[tuple[str, dict[str, Any], object]] = [
    ("create_task", scope(), PROMPT),
    (
        "create_task",
        scope("dry_run=true", ("prefer", "wait=1"), ("prefer", "wait=2"), ("idempotency-key", "k")),
        PROMPT,
    ),
    ("create_task", scope("dry_run=perhaps"), {"prompt": 7, "colour": "red"}),
    ("create_task", scope(), None),
    ("create_task", scope(), []),
    ("create_task", scope("", ("prefer", "")), PROMPT),
    ("list_tasks", scope(), None),
    (
        "list_tasks",
        scope("status=Queued&status=failed,completed&role=x&mode=chat&engine=e&page_size=7&page_token=t"),
        None,
    ),
    ("list_tasks", scope("status=&mode=y&page_size=0&engine=&created_from=soon&awaiting_approval=1"), None),
    ("list_tasks", scope("created_from=2026-01-31T08:00:00Z&metadata.team=x&metadata.=y"), None),
    ("get_task", scope("", ("if-none-match", '"1"'), ("if-none-match", '"2"'), task_id="t1"), None),
    ("get_task", scope(task_id="t1"), None),
    ("read_events", scope(task_id="t1"), None),
    ("read_events", scope("starting_after=7&wait=20", ("last-event-id", "9"), ("accept", "*/*"), task_id="t1"), None),
    ("read_events", scope("starting_after=-1&wait=21", ("last-event-id", "x"), task_id="t1"), None),
    ("approve_plan", scope(task_id="t1"), {"plan_hash": "x"}),
    ("approve_plan", scope(task_id="t1"), {}),
    ("switch_engine", scope(name="a/b"), {"toggle": False}),
    ("create_key", scope("", ("idempotency-key", '"k"')), {"tenant": "acme", "scopes": ["tasks"]}),
    ("update_key", scope(key_id="k1"), {"limits": {"requests_per_minute": 0}}),
    ("revoke_key", scope(key_id="k1"), None),
    ("get_health", scope(), None),
    ("read_odd", scope("", ("depth", "2"), number="7"), None),
    ("read_odd", scope("size=0", ("depth", "x"), number="x"), None),
    ("quote_task", scope(), PROMPT),
    ("reject_plan", scope(task_id="t1"), {"plan_hash": "x"}),
    *((name, scope(task_id="t1"), None) for name in ("cancel_task", "retry_task", "delete_task")),
    ("create_conversation", scope(), None),
    *((name, scope(conversation_id="c1"), None) for name in ("get_conversation", "delete_conversation")),
    *((name, scope(), None) for name in ("get_metrics", "get_usage", "get_catalog", "get_engines", "list_keys")),
]


@pytest.mark.parametrize(("name", "called", "body"), CALLS)
def test_a_route_gets_the_arguments_that_the_framework_would_read(
    name: str, called: dict[str, Any], body: object
) -> None:
    """Also the same faults, in the same order."""
    values, faults = ours(ROUTES[name], called.copy(), body)
    expected, expected_faults = frameworks(ROUTES[name], called.copy(), body)

    values.pop("request", None)
    expected.pop("request", None)
    assert faults == expected_faults
    assert values == expected or faults


def test_every_route_is_compared() -> None:
    assert {name for name, _, _ in CALLS} == set(ROUTES)
