"""The classes of the routes: they read a request strictly, call the route's function, and send its response.

FastAPI declares and describes the routes; it does not run them (`arguments.py` says why).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from llm_server.api.auth import Gate, check_scope
from llm_server.api.edge import ANSWER_HEADERS
from llm_server.api.requests.arguments import Arguments
from llm_server.api.requests.body import StrictRequest
from llm_server.api.requests.query import QueryRules

CALLER = "llm_server.caller"
"""The key, in an ASGI scope, of the caller that the gate admitted."""
_declaring = threading.RLock()
"""Held while a route's declaration is read; reading it asks for attributes that it has not set yet."""


class OpenRoute(APIRoute):
    """A route that needs no key. It accepts only strict JSON sent as application/json as a body.

    Unknown and repeated query parameters are refused. If they were ignored, a misspelt `dry_run` would spend money,
    and a misspelt filter would list every task.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, methods: Collection[str], **options: Any) -> None:
        # The path and the methods find the route of a request. FastAPI reads the rest of the declaration when it is
        # needed first: in a Lambda function most routes are never called, and reading them all takes as long as
        # importing a tenth of the libraries.
        self.path, self.methods = path, set(methods)
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._declare: Callable[[], None] | None = partial(
            super().__init__, path, endpoint, methods=self.methods, **options
        )

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that `__init__` has not set: read the declaration, which sets it.

        A request on another thread waits for that.
        """
        with _declaring:
            declare = self.__dict__.get("_declare")
            if declare is not None:
                self._declare = None
                declare()
                self._arguments = Arguments(self.dependant)
                self._rules = QueryRules.of(self.dependant)
        return object.__getattribute__(self, name)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # refuses the method
            return
        response = await self.respond(StrictRequest(scope, receive, send))
        await response(scope, receive, send)

    async def respond(self, request: StrictRequest) -> Response:
        self._rules.check(request)
        body = None if self.body_field is None else await request.json()
        arguments, faults = self._arguments.read(request, body)
        if faults:
            raise RequestValidationError(faults)
        response: Response = await self.endpoint(**arguments)
        return response


class StrictRoute(OpenRoute):
    """A route that checks the caller's key before anything else."""

    async def respond(self, request: StrictRequest) -> Response:
        scope = request.scope
        gate: Gate = request.app.state.gate
        caller, rate = await gate.admit(request)
        scope[CALLER], scope[ANSWER_HEADERS] = caller, rate
        check_scope(caller, self.path, request.app.state.prefix)
        return await super().respond(request)
