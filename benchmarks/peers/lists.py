"""The time of `GET /tasks` with 100,000 tasks, without a filter and with each kind of filter."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers import load
from benchmarks.peers.engine import Engine, serving_engine
from benchmarks.peers.many_tasks import SPACING_MS, TOTAL, fill
from benchmarks.peers.sides import llm_server
from benchmarks.peers.targets import at_most, percentile

REPEATS, MAX_QUERY_S = 30, 2.0


def lists() -> None:
    with tempfile.TemporaryDirectory() as folder, serving_engine() as engine:
        db = Path(folder) / "tasks.db"
        began_s = time.perf_counter()
        newest_ms = fill(db)
        print(
            f"  {TOTAL:,} tasks written in {time.perf_counter() - began_s:.0f} s; medians of up to {REPEATS} requests"
        )
        _measure(engine, db, newest_ms)


def _measure(engine: Engine, db: Path, newest_ms: int) -> None:
    began_s = time.perf_counter()
    with llm_server(engine.base_url, max_concurrency=64, db=db) as (_, side):
        load.send(side.port, [load.get("/api/v1/health")])
        at_most(f"start with {TOTAL:,} tasks", time.perf_counter() - began_s, 1.5, " s")
        for query in _queries(newest_ms):
            page, times_ms = _asked(side.port, query)
            found = f"{len(page['tasks']):3} tasks{' and a next page' if page['next_page_token'] else ''}"
            at_most(f"{query or '(no filter)'}: {found}, p50", percentile(times_ms, 0.5), 10, " ms")


def _queries(newest_ms: int) -> list[str]:
    """Return the filters: with many matches, with a few among the oldest tasks, and without a match."""
    middle_ms = newest_ms - TOTAL // 2 * SPACING_MS
    hour = f"created_from={_time(middle_ms)}&created_to={_time(middle_ms + 3_600_000)}"
    return [
        "",
        "status=Completed",
        "status=Cancelled",
        "status=Failed",
        "role=Writing-Agent",
        "role=Email-Agent",
        "mode=Agent",
        "mode=Plan",
        "engine=fake",
        "engine=other",
        "metadata.customer=c1",
        "metadata.customer=rare",
        "metadata.customer=unknown",
        "awaiting_approval=false",
        "awaiting_approval=true",
        hour,
        f"created_from={_time(newest_ms + 86_400_000)}",
        f"{hour}&role=Email-Agent",
        "status=Completed&engine=other&metadata.customer=unknown",
    ]


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _asked(port: int, query: str) -> tuple[Any, list[float]]:
    """Return the first page, and the milliseconds of each request."""
    request = load.get(f"/api/v1/tasks?{query}")
    times_ms: list[float] = []
    while len(times_ms) < REPEATS and sum(times_ms) < MAX_QUERY_S * 1000:
        (answer,) = load.send(port, [request])
        assert answer.status == 200, answer
        times_ms.append(answer.took_ms)
    return answer.json(), times_ms
