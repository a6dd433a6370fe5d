"""The FastAPI app over a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from llm_server import __version__
from llm_server.api import errors
from llm_server.api.auth import Gate
from llm_server.api.contract import PREFIX, describe_problems, describe_rates
from llm_server.api.edge import Edge
from llm_server.api.routes import keys, server, tasks
from llm_server.orchestration.service import Service

JSON_BYTES_PER_CHAR = 12
"""A character outside the Basic Multilingual Plane may come as two escapes of six bytes."""
BODY_REST_BYTES = 64 * 1024


class _App(FastAPI):
    """FastAPI, which has no place for headers that every route's answers have."""

    def openapi(self) -> dict[str, Any]:
        return describe_rates(describe_problems(super().openapi()))


def create_app(service: Service, new_id: Callable[[], str], *, open_without_keys: bool = False) -> FastAPI:
    """Make the app. `new_id` names requests that came without an X-Request-Id.

    `open_without_keys`: only for a server that nobody but its owner reaches (`Gate`).
    """
    app = _App(
        title="LLM-Server",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.state.max_body_bytes = service.prompt_max_chars * JSON_BYTES_PER_CHAR + BODY_REST_BYTES
    app.state.gate = Gate(service.keys, open_without_keys=open_without_keys)
    app.state.prefix = PREFIX
    app.state.stopping = lambda: False
    for router in (tasks.router, server.router, keys.router, server.health):
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Edge, new_id=new_id)
    return app
