"""The one route of the app for all paths of the dialect: it imports them when the first call comes.

A Lambda function that is never asked in the dialect does not pay for the import.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

PREFIX = "/v1"
_ROUTE = "llm_server.openai_route"


def is_dialect(path: str) -> bool:
    """Return whether a path is one of the dialect, whether it exists or not."""
    return path.startswith(PREFIX + "/") or path == PREFIX


class Dialect(BaseRoute):
    """Matches what the routes under `/v1` match, and passes the call on to the one that does."""

    @cached_property
    def routes(self) -> Sequence[BaseRoute]:
        from llm_server.api.openai import routes

        return routes.all_routes()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or not is_dialect(scope["path"]):
            return Match.NONE, {}
        partial: tuple[Match, Scope] = Match.NONE, {}
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return match, {**found, _ROUTE: route}
            if match is Match.PARTIAL and partial[0] is Match.NONE:
                partial = match, {**found, _ROUTE: route}
        return partial

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route: BaseRoute = scope[_ROUTE]
        await route.handle(scope, receive, send)
