"""Places: the limit on simultaneous calls to an engine, shared by all threads of the process."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.errors import OutOfTime, TaskCancelled

CANCELLATION_CHECK_S = 0.2
"""How often a call that waits for a place checks whether its task was cancelled."""


class Places:
    """`max_concurrency` places for each engine; a call holds one of them while the engine works on it."""

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        self._places = {name: threading.BoundedSemaphore(spec.max_concurrency) for name, spec in engines.items()}

    @contextmanager
    def hold(self, engine: str, wait_s: float, cancellation: Cancellation) -> Iterator[None]:
        """Wait at most `wait_s` seconds for a free place of the engine, and hold it during the block.

        Raises:
            OutOfTime: no place became free in that time.
            TaskCancelled: the task was cancelled during the wait.
        """
        for _ in range(math.ceil(wait_s / CANCELLATION_CHECK_S)):
            if self._places[engine].acquire(timeout=CANCELLATION_CHECK_S):
                break
            if cancellation.is_cancelled:
                raise TaskCancelled
        else:
            raise OutOfTime(f"Engine {engine} was busy with other calls until the worker's time was over.")
        try:
            yield
        finally:
            self._places[engine].release()
