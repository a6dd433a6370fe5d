"""All routes of the dialect, in the order in which they are matched."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute

from llm_server.api.openai import chat, conversations, models, responses


def all_routes() -> Sequence[BaseRoute]:
    return [
        *chat.router.routes,
        *responses.router.routes,
        *conversations.router.routes,
        *models.router.routes,
    ]
