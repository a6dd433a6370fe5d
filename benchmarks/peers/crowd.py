"""This server with many callers at once: how long they wait, and how many engine calls are in flight."""

import http.client
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks.peers import load
from benchmarks.peers.engine import prompt, serving_engine
from benchmarks.peers.processes import memory_mb
from benchmarks.peers.sides import Side, llm_server
from benchmarks.peers.targets import at_least, at_most, percentile

CALLERS, WAITED_S = 500, 2.0
PROBED = ("/api/v1/health", "/api/v1/metrics")
PROBE_S = 0.02
CALLS, CALL_S, TASKS = 512, 1.0, 2_000
MAX_MEASURE_S = 30.0


def waiting() -> None:
    print(
        f"  {CALLERS} callers at once with Prefer: wait=25, an engine that takes {WAITED_S:g} s, max_concurrency = 256"
    )
    with serving_engine(WAITED_S) as engine, llm_server(engine.base_url, max_concurrency=256) as (server, side):
        side.tasks(1, first=CALLERS, in_flight=1)
        with _probes(side.port) as probes:
            answers = load.send(side.port, map(side.request, range(CALLERS)), in_flight=CALLERS)
        peak_mb = memory_mb(server.process.pid, peak=True)
    final = [answer for answer in answers if answer.status == 200 and answer.json()["status"] == "Completed"]
    at_least("answered 200 with the result", len(final), CALLERS)
    first_s = min(answer.sent_s for answer in answers)
    at_most("the last answer came after", max(answer.received_s for answer in answers) - first_s, 8, " s")
    for path, times_ms in probes.items():
        name = f"{path} meanwhile ({len(times_ms)} probes, max {max(times_ms):,.0f} ms), p99"
        at_most(name, percentile(times_ms, 0.99), 100, " ms")
    at_most("peak memory of the server", peak_mb, 150, " MB")


@contextmanager
def _probes(port: int) -> Iterator[dict[str, list[float]]]:
    """Probe the server from a process of its own; after the block, the result has the milliseconds of each probe."""
    found: dict[str, list[float]] = {}
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_probe_all, args=(port, theirs), daemon=True)
    process.start()
    try:
        ours.recv()
        yield found
        ours.send("stop")
        found.update(ours.recv())
    finally:
        process.kill()
        process.join()


def _probe_all(port: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found: dict[str, list[float]] = {path: [] for path in PROBED}
    over = threading.Event()
    threads = [threading.Thread(target=_probe, args=(port, path, found[path], over)) for path in PROBED]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    pipe.recv()
    over.set()
    for thread in threads:
        thread.join()
    pipe.send(found)


def _probe(port: int, path: str, times_ms: list[float], over: threading.Event) -> None:
    """Send a request every 20 ms. One that must wait for the answer before it counts from when it was due."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    due_s = time.perf_counter()
    while not over.wait(max(0.0, due_s - time.perf_counter())):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        times_ms.append((time.perf_counter() - due_s) * 1000)
        due_s += PROBE_S
    connection.close()


def in_flight() -> None:
    print(
        f"  {TASKS:,} tasks posted by {CALLS} connections, an engine that takes {CALL_S:g} s, max_concurrency = {CALLS}"
    )
    with serving_engine(CALL_S) as engine, llm_server(engine.base_url, max_concurrency=CALLS) as (server, side):
        start = time.perf_counter()
        requests = (load.post(side.path, {"prompt": prompt(number)}) for number in range(TASKS))
        answers = load.send(side.port, requests, in_flight=CALLS)
        assert all(answer.status == 202 for answer in answers)
        finished = _finished(side, until_s=start + MAX_MEASURE_S)
        took_s = time.perf_counter() - start
        _, peak = engine.calls()
        peak_mb = memory_mb(server.process.pid, peak=True)
    at_least("calls in flight at the same time", peak, CALLS)
    at_least(f"tasks/s ({finished:,} finished in {took_s:.1f} s)", finished / took_s, 200)
    print(f"  peak memory of the server: {peak_mb:.0f} MB")


def _finished(side: Side, *, until_s: float) -> int:
    """Wait until all tasks are finished, at most until a time of `perf_counter`; return how many are."""
    while True:
        (answer,) = load.send(side.port, [load.get("/api/v1/metrics")])
        metrics = answer.json()
        left = int(metrics["queue_length"] + metrics["active_tasks"])
        if not left or time.perf_counter() > until_s:
            return TASKS - left
        time.sleep(0.02)
