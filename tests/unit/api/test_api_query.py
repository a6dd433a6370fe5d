"""Query parameters: each call accepts those that it declares, each once unless it is declared as a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse

from llm_server.api.app import App
from llm_server.api.requests.query import QueryPrefix
from llm_server.api.requests.routes import OpenRoute
from support import asgi
from support.in_process_server import CalledServer

router = APIRouter(route_class=OpenRoute)


@router.get("/")
async def listed(
    metadata: Annotated[Mapping[str, str], Depends(QueryPrefix("metadata."))],
    status: Annotated[list[str] | None, Query()] = None,
    size: Annotated[int | None, Query()] = None,
) -> Response:
    """Accept one parameter that repeats, one that does not, and a prefix."""
    return JSONResponse({"metadata": metadata, "status": status, "size": size})


def called(query: str) -> asgi.Answer:
    app = App(lambda: "r-1")
    app.add(router)
    return asgi.call(app, "GET", f"/?{query}")


def test_a_list_may_repeat_and_a_prefix_accepts_every_name_below_it() -> None:
    answer = called("status=a&status=b&size=1&metadata.team=x&metadata.a.b=")

    assert answer.json == {"metadata": {"team": "x", "a.b": ""}, "status": ["a", "b"], "size": 1}


@pytest.mark.parametrize(
    ("query", "code", "sentence"),
    [
        (
            "metadata=x",
            "unknown_parameter",
            "Unknown query parameter 'metadata'; known are status, size, metadata.<key>.",
        ),
        ("Status=x", "unknown_parameter", "Unknown query parameter 'Status'; known are status, size, metadata.<key>."),
        ("size=1&size=1", "repeated_parameter", "The query parameter 'size' is given more than once."),
        (
            "metadata.a=1&metadata.a=2",
            "repeated_parameter",
            "The query parameter 'metadata.a' is given more than once.",
        ),
    ],
)
def test_other_query_parameters_are_refused_by_name(query: str, code: str, sentence: str) -> None:
    answer = called(query)

    assert (answer.status, answer.code, answer.detail) == (422, code, sentence)


def test_a_misspelt_filter_does_not_list_everything(server: CalledServer) -> None:
    server.created()

    answer = server.get("tasks?created_after=2026-01-01")

    assert (answer.status, answer.code) == (422, "unknown_parameter")
    assert answer.json["errors"][0]["pointer"] == "/created_after"


@pytest.mark.parametrize("path", ["docs", "openapi.json"])
def test_documentation_pages_ignore_query_parameters(server: CalledServer, path: str) -> None:
    """Browsers and tools add parameters to pages."""
    assert server.get(f"{path}?v=2").status == 200
