"""Places: the limit on simultaneous calls to an engine, shared by all threads of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.errors import OutOfTime, TaskCancelled
from llm_server.orchestration.domain.turns import OF_NO_TENANT, Line, Turns


class Places:
    """`max_concurrency` places for each engine; a call holds one of them while the engine works on it.

    Calls get their places by turns between tenants (`Turns`); those of one line in the order in which they began to
    wait.
    """

    def __init__(self, engines: Mapping[str, EngineSpec]) -> None:
        self._lock = threading.Lock()
        self._free = {name: spec.max_concurrency for name, spec in engines.items()}
        self._waiting = {name: Turns[threading.Event]() for name in engines}

    @contextmanager
    def hold(self, engine: str, wait_s: float, cancellation: Cancellation, line: Line = OF_NO_TENANT) -> Iterator[None]:
        """Wait in a line, at most `wait_s` seconds, for a free place of the engine, and hold it during the block.

        Raises:
            OutOfTime: no place became free in that time.
            TaskCancelled: the task was cancelled during the wait.
        """
        self._take(engine, wait_s, cancellation, line)
        try:
            yield
        finally:
            self._give_back(engine, line)

    def _take(self, engine: str, wait_s: float, cancellation: Cancellation, line: Line) -> None:
        waiting, woken = self._waiting[engine], threading.Event()
        with self._lock:
            if self._free[engine]:
                self._free[engine] -= 1
                waiting.use(line)
                return
            waiting.put(line, woken)
        with suppress(TaskCancelled), cancellation.on_cancel(woken.set):
            woken.wait(wait_s)
        with self._lock:
            has_place = not waiting.remove(line, woken)  # a call that ended passed its place on
        if cancellation.is_cancelled:
            if has_place:
                self._give_back(engine, line)
            raise TaskCancelled
        if not has_place:
            raise OutOfTime(f"Engine {engine} was busy with other calls until the worker's time was over.")

    def _give_back(self, engine: str, line: Line) -> None:
        """Pass the place to the call whose turn it is, or free it if none waits."""
        with self._lock:
            self._waiting[engine].give_back(line)
            if self._waiting[engine]:
                _, woken = self._waiting[engine].take()
                woken.set()
            else:
                self._free[engine] += 1
