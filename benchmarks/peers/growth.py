"""This server's memory with the number of its tasks, and the time of its start."""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.peers import load
from benchmarks.peers.engine import serving_engine
from benchmarks.peers.processes import memory_mb
from benchmarks.peers.sides import Side, llm_server
from benchmarks.peers.targets import at_least, at_most

STARTS = 5
FEW, MANY = 2_000, 20_000
MAX_MEASURE_S = 75.0


def start() -> None:
    with serving_engine() as engine, tempfile.TemporaryDirectory() as folder:
        times_s = []
        for number in range(STARTS):
            began_s = time.perf_counter()
            with llm_server(engine.base_url, max_concurrency=64, db=Path(folder) / f"{number}.db") as (_, side):
                _await_health(side)
                times_s.append(time.perf_counter() - began_s)
    name = f"from the command to the first /health (median of {STARTS}, {min(times_s):.2f} to {max(times_s):.2f})"
    at_most(name, statistics.median(times_s), 1.5, " s")


def _await_health(side: Side) -> None:
    """Ask for /health. The listener exists before the server is ready, and holds the connection until then."""
    (answer,) = load.send(side.port, [load.get("/api/v1/health")])
    assert answer.status == 200


def memory() -> None:
    print(f"  after {FEW:,} and {MANY:,} tasks, with 64 requests in flight and an engine that answers at once")
    with serving_engine() as engine, llm_server(engine.base_url, max_concurrency=64) as (server, side):
        pid, began_s = server.process.pid, time.perf_counter()
        side.tasks(FEW, in_flight=64)
        few_mb = memory_mb(pid)
        left_s = MAX_MEASURE_S - (time.perf_counter() - began_s)
        done = FEW + len(side.tasks(MANY - FEW, first=FEW, in_flight=64, max_s=left_s))
        many_mb = memory_mb(pid)
    at_least(f"tasks within {MAX_MEASURE_S:g} s", done, MANY)
    at_most(f"growth from {few_mb:.1f} MB to {many_mb:.1f} MB after {done:,} tasks", many_mb - few_mb, 5, " MB")
