"""A tenant's times while another tenant queues 10,000 tasks, beside its times on the idle server, in one run."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import load
from benchmarks.peers.engine import prompt, result, serving_engine
from benchmarks.peers.sides import llm_server
from benchmarks.peers.targets import at_least, at_most, percentile

BACKLOG, CONNECTIONS = 10_000, 64
IDLE_REQUESTS = 200
MAX_RATIO = 2.0
PATH = "/api/v1/tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An engine, how many requests of tenant B are in flight, and for how long they are measured.

    `has_target` is False where the processor is the limit, because there the ratio is only told.
    """

    latency_s: float
    places: int
    in_flight: int
    measured_s: float
    has_target: bool = True


SETTINGS = (
    Setting(latency_s=0.5, places=64, in_flight=4, measured_s=60),
    Setting(latency_s=0.2, places=1, in_flight=1, measured_s=45),
    Setting(latency_s=0.0, places=64, in_flight=1, measured_s=20, has_target=False),
)


def turns() -> None:
    print(f"  tenant A posts {BACKLOG:,} tasks over {CONNECTIONS} connections; tenant B posts with Prefer: wait=25")
    for setting in SETTINGS:
        _measure(setting)


def _measure(setting: Setting) -> None:
    print(
        f"  an engine that takes {setting.latency_s:g} s, max_concurrency = {setting.places}; "
        f"{setting.in_flight} of B's requests in flight",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder, serving_engine(setting.latency_s) as engine:
        db = Path(folder) / "tasks.db"
        with llm_server(engine.base_url, max_concurrency=setting.places, db=db) as (_, side):
            a, b = (_key(db, f"tenant-{name}") for name in "ab")
            time.sleep(1.5)  # until the server knows of the keys
            idle = _times(side.port, b, setting, count=IDLE_REQUESTS)
            begun_s = time.perf_counter()
            with _backlog(side.port, a):
                busy = _times(side.port, b, setting, max_s=setting.measured_s)
                metrics = load.send(side.port, [load.get("/api/v1/metrics", **_bearer(a))])[0].json()
            done = metrics["total_requests"] - metrics["queue_length"] - metrics["active_tasks"] - len(idle) - len(busy)
    lasted_s = time.perf_counter() - begun_s
    print(f"  B idle: {_list(idle)}; beside A: {_list(busy)}; A had {done:,} answers in {lasted_s:.0f} s")
    at_least("tasks that still wait at the end", metrics["queue_length"], 1)
    ratio = percentile(busy, 0.99) / percentile(idle, 0.99)
    if setting.has_target:
        at_most("p99 of B beside A, ratio to its p99 on the idle server", ratio, MAX_RATIO)
    else:
        print(f"  p99 of B beside A, ratio to its p99 on the idle server: {ratio:.2f} (no target: A takes the core)")


def _list(times_ms: list[float]) -> str:
    p50, p99 = (percentile(times_ms, share) for share in (0.5, 0.99))
    return f"{len(times_ms)} requests, p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, max {max(times_ms):,.0f} ms"


def _key(db: Path, tenant: str) -> str:
    command = [sys.executable, "-m", "llm_server", "keys", "create", "--tenant", tenant, "--scope", "tasks,metrics"]
    env = {**os.environ, "LLM_SERVER_DB": str(db)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _times(port: int, key: str, setting: Setting, *, count: int = 10**6, max_s: float = 60.0) -> list[float]:
    """Return the milliseconds of each of B's requests, from POST to the result."""
    end_s = time.perf_counter() + max_s

    def requests() -> Iterator[bytes]:
        for number in range(count):
            if time.perf_counter() > end_s:
                return
            yield load.post(PATH, {"prompt": prompt(number)}, Prefer="wait=25", **_bearer(key))

    answers = load.send(port, requests(), in_flight=setting.in_flight)
    wrong = [a for a in answers if a.status != 200 or not a.json()["result"].startswith(result(0)[:20])]
    assert not wrong, f"{len(wrong)} of {len(answers)} answers are no results; the first: {wrong[0]}"
    return [answer.took_ms for answer in answers]


@contextmanager
def _backlog(port: int, key: str) -> Iterator[None]:
    """Post tenant A's tasks from a process of its own; it ends with the block."""
    process = multiprocessing.Process(target=_post_all, args=(port, key), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _post_all(port: int, key: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the benchmark, which ends this process
    requests = (load.post(PATH, {"prompt": prompt(number)}, **_bearer(key)) for number in range(BACKLOG))
    load.send(port, requests, in_flight=CONNECTIONS)
