"""Build the FastAPI app that serves a `Service` over HTTP."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.types import ASGIApp

from llm_server import __version__
from llm_server.api import document
from llm_server.api.auth import Gate
from llm_server.api.contract import PREFIX
from llm_server.api.edge import Edge
from llm_server.api.executor import Executor
from llm_server.api.openai.mount import Dialect
from llm_server.api.routes import conversations, docs, keys, server, task_changes, task_events, tasks
from llm_server.orchestration.service import Service
from llm_server.orchestration.tasks.messages.images import MAX_BYTES_TOGETHER

JSON_BYTES_PER_CHAR = 12
"""The most bytes of one character: outside the Basic Multilingual Plane, JSON allows two escapes of six bytes."""
BODY_REST_BYTES = 64 * 1024
"""Bytes allowed in a body in addition to those of the prompt and the images."""
IMAGES_BYTES = MAX_BYTES_TOGETHER * 4 // 3
"""The images of a task in base64."""


class App(FastAPI):
    """FastAPI with an OpenAPI document that also describes what all routes share, and with one layer of our own.

    `Edge` does what the framework's layers do for errors; what they do for other kinds of routes is left out. So the
    app can have only routes of the classes in `requests/routes.py`, and plain Starlette routes.
    """

    def __init__(self, new_id: Callable[[], str], **options: Any) -> None:
        super().__init__(**options)
        self._new_id = new_id

    def add(self, router: APIRouter) -> None:
        """Add the routes of a router as they are; included in the framework's way, each match takes twice as long."""
        self.router.routes.extend(router.routes)

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(self.router, self._new_id)

    def openapi(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            # The models of responses are built when needed; then pydantic warns of what FastAPI does with their fields.
            warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)
            described = super().openapi()
        document.complete(described)
        return described


def create_app(
    service: Service,
    new_id: Callable[[], str],
    *,
    executor: Executor,
    open_without_keys: bool = False,
    origins: Collection[str] = (),
) -> FastAPI:
    """Create the app.

    `new_id` makes the id of a request that has no valid `X-Request-Id`. `executor` runs the use cases. With
    `open_without_keys`, callers need no key until the first key is created; set it only if the server can be reached
    from its own machine alone (see `Gate`). `origins` are those whose pages may call it then.
    """
    app = App(
        new_id,
        title="LLM-Server",
        summary="A task server between your programs and your LLMs.",
        description=document.DESCRIPTION,
        version=__version__,
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        servers=document.SERVERS,
        openapi_tags=document.TAGS,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.executor = executor
    app.state.max_body_bytes = service.prompt_max_chars * JSON_BYTES_PER_CHAR + IMAGES_BYTES + BODY_REST_BYTES
    app.state.gate = Gate(service.keys, executor, open_without_keys=open_without_keys, origins=origins)
    app.state.prefix = PREFIX
    for router in (
        tasks.router,
        task_events.router,
        task_changes.router,
        conversations.router,
        server.router,
        server.engines,
        keys.router,
        server.health,
        docs.router,
    ):
        app.add(router)
    app.router.routes.append(Dialect())
    return app
