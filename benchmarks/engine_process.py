"""A fake engine in a process of its own, so that its CPU time is not counted as the server's."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import aws  # noqa: F401 - puts tests/ on the path
from support.fake_engine import fake_engine


def engine_process(latency_s: float, answer: Callable[[Any], str] | None = None) -> tuple[str, Callable[[], None]]:
    """Start a fake engine; return its `base_url` and a function that stops it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve_engine, args=(latency_s, answer, theirs), daemon=True)
    process.start()
    url: str = ours.recv()

    def stop() -> None:
        ours.send("stop")
        process.join()

    return url, stop


def _serve_engine(latency_s: float, answer: Callable[[Any], str] | None, pipe: Connection) -> None:
    with fake_engine(latency_s=latency_s, answer=answer) as engine:
        pipe.send(engine.base_url)
        pipe.recv()
