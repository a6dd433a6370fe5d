"""Places: the limit on simultaneous calls to an engine, shared by all threads of the process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import OutOfTime, TaskCancelled


class Places:
    """`max_concurrency` places for each engine; a call holds one of them while the engine works on it.

    Calls get their places in the order in which they began to wait.
    """

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        self._lock = threading.Lock()
        self._free = {name: spec.max_concurrency for name, spec in engines.items()}
        self._waiting = {name: deque[threading.Event]() for name in engines}

    @contextmanager
    def hold(self, engine: str, wait_s: float, cancellation: Cancellation) -> Iterator[None]:
        """Wait at most `wait_s` seconds for a free place of the engine, and hold it during the block.

        Raises:
            OutOfTime: no place became free in that time.
            TaskCancelled: the task was cancelled during the wait.
        """
        self._take(engine, wait_s, cancellation)
        try:
            yield
        finally:
            self._give_back(engine)

    def _take(self, engine: str, wait_s: float, cancellation: Cancellation) -> None:
        waiting, woken = self._waiting[engine], threading.Event()
        with self._lock:
            if self._free[engine]:
                self._free[engine] -= 1
                return
            waiting.append(woken)
        with suppress(TaskCancelled), cancellation.on_cancel(woken.set):
            woken.wait(wait_s)
        with self._lock:
            has_place = woken not in waiting  # a call that ended passed its place on
            if not has_place:
                waiting.remove(woken)
        if cancellation.is_cancelled:
            if has_place:
                self._give_back(engine)
            raise TaskCancelled
        if not has_place:
            raise OutOfTime(f"Engine {engine} was busy with other calls until the worker's time was over.")

    def _give_back(self, engine: str) -> None:
        """Pass the place to the call that has waited longest, or free it if none waits."""
        with self._lock:
            if self._waiting[engine]:
                self._waiting[engine].popleft().set()
            else:
                self._free[engine] += 1
