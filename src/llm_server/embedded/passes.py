"""Spreads a burst of requests over passes of the event loop, so that `/health` and `/metrics` do not wait for it."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

MAX_STARTS = 8
"""How many requests begin in one pass of the event loop, about 2 ms of work."""


class Passes:
    """An ASGI app that lets at most `MAX_STARTS` requests begin in one pass of the event loop, in their order.

    Requests for the paths in `first` begin at once.
    """

    def __init__(self, app: ASGIApp, *, first: frozenset[str]) -> None:
        self._app = app
        self._first = first
        self._waiting = deque[Future[None]]()
        self._begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._first:
            loop = asyncio.get_running_loop()
            if self._begun == 0:
                loop.call_soon(self._begin_pass)
            self._begun += 1
            if self._begun > MAX_STARTS:
                turn: Future[None] = loop.create_future()
                self._waiting.append(turn)
                await turn
        await self._app(scope, receive, send)

    def _begin_pass(self) -> None:
        """Let those that wait begin, as many as one pass may have. It is called once in each pass with requests."""
        for _ in range(min(MAX_STARTS, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        self._begun = MAX_STARTS if self._waiting else 0
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_pass)
