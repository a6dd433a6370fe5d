"""The declaration of a route is read when it is needed first, by whichever thread."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Annotated

from fastapi import Query

from llm_server.api.requests.routes import OpenRoute

THREADS = 8


async def read(number: Annotated[int, Query()] = 1) -> dict[str, int]:
    return {"number": number}


def test_threads_read_a_declaration_once() -> None:
    """Each gets the whole declaration, also while another thread is reading it."""
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            route, together = OpenRoute("/things", read, methods=["GET"]), Barrier(THREADS)

            def rules(route: OpenRoute = route, together: Barrier = together) -> int:
                together.wait()
                return id(route._rules)

            with ThreadPoolExecutor(THREADS) as threads:
                found = {done.result() for done in [threads.submit(rules) for _ in range(THREADS)]}

            assert len(found) == 1
    finally:
        sys.setswitchinterval(0.005)
