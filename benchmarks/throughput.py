"""Tasks per second and CPU time per task of the embedded server, with an instant engine and one that takes 50 ms.

The client keeps four connections busy from this process. A task counts as done when the server's own metrics say so.
"""

import http.client
import json
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import aws  # noqa: F401 - puts tests/ on the path
from benchmarks.batch import CONFIG
from support.fake_engine import fake_engine
from support.server_process import RunningServer, serving

CONNECTIONS = 4


def run() -> None:
    for name, tasks, latency_s, workers in (("at once", 3_000, None, 8), ("50 ms", 1_500, 0.05, 64)):
        with tempfile.TemporaryDirectory() as directory:
            rate, cpu_ms = _measured(Path(directory), tasks, latency_s, workers)
        note = " (expected >= 300 on two idle cores)" if latency_s is None else f", {workers} workers"
        print(f"  engine answers {name}: {rate:.0f} tasks/s, {cpu_ms:.2f} ms server CPU a task{note}")


def _measured(directory: Path, tasks: int, latency_s: float | None, workers: int) -> tuple[float, float]:
    env: dict[str, str] = {"LLM_SERVER_LOG_LEVEL": "WARNING"}
    stop: Callable[[], None] = lambda: None  # noqa: E731
    if latency_s is not None:
        url, stop = engine_process(latency_s)
        (directory / "engines.toml").write_text(CONFIG.format(url=url))
        env["LLM_SERVER_CONFIG"] = str(directory / "engines.toml")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with serving(directory / "tasks.db", "--workers", str(workers), env=env) as server:
        server.submit("warm up", wait_s=10)
        start = time.perf_counter()
        _post(server, tasks)
        while server.call("GET", "/metrics").json()["success_rate"] is None or _open(server):
            time.sleep(0.02)
        rate = tasks / (time.perf_counter() - start)
        server.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    stop()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return rate, cpu_s * 1000 / tasks


def _open(server: RunningServer) -> int:
    metrics = server.call("GET", "/metrics").json()
    return int(metrics["queue_length"] + metrics["active_tasks"])


def _post(server: RunningServer, tasks: int) -> None:
    body = json.dumps({"prompt": "Write a haiku about queues."})

    def send() -> None:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        for _ in range(tasks // CONNECTIONS):
            connection.request("POST", "/api/v1/tasks", body, {"Content-Type": "application/json"})
            assert connection.getresponse().read().startswith(b'{"task_id"')
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def engine_process(latency_s: float, answer: Callable[[Any], str] | None = None) -> tuple[str, Callable[[], None]]:
    """Start a fake engine in a process of its own, so that its CPU time is not counted as the server's."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve_engine, args=(latency_s, answer, theirs), daemon=True)
    process.start()
    url: str = ours.recv()

    def stop() -> None:
        ours.send("stop")
        process.join()

    return url, stop


def _serve_engine(
    latency_s: float, answer: Callable[[Any], str] | None, pipe: "multiprocessing.connection.Connection"
) -> None:
    with fake_engine(latency_s=latency_s, answer=answer) as engine:
        pipe.send(engine.base_url)
        pipe.recv()
