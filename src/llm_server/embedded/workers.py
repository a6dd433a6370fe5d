"""The embedded server's workers: threads that take messages from the queue, and one thread that sweeps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.service import Service
from llm_server.storage.sqlite.queue import SqliteQueue

_log = logging.getLogger(__name__)

RECEIVE_S = 1.0
MAX_SWEEP_S = 60
RETRY_S = 5


class Workers:
    """The worker threads and the sweeping thread of the embedded server. They can be started only once."""

    def __init__(
        self, service: Service, queue: SqliteQueue, *, count: int, sweep_s: int, new_id: Callable[[], str]
    ) -> None:
        self._service = service
        self._queue = queue
        self._sweep_s = min(sweep_s, MAX_SWEEP_S)
        self._new_id = new_id
        self._stopping = threading.Event()
        loops = [("sweeper", self._sweep)] + [(f"worker-{n}", self._work) for n in range(1, count + 1)]
        self._threads = [threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> int:
        """Take no more tasks, wait at most `grace_s` seconds for the threads, and return the number that still run."""
        self._stopping.set()
        end = time.monotonic() + grace_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                ref = self._queue.receive(RECEIVE_S)
                if ref is not None:
                    self._process(ref)
            except StorageUnavailable:
                _log.warning("the database did not answer", exc_info=True)
                self._stopping.wait(1)
            except Exception:  # an error with one task must not end the worker; the sweep wakes the task again
                _log.exception("task not processed")

    def _process(self, ref: TaskRef) -> None:
        """Carry a task out; if the database fails, send its message again, as SQS does."""
        try:
            self._service.process(ref, owner=self._new_id())
        except StorageUnavailable:
            self._queue.send(ref, delay_s=RETRY_S)
            raise

    def _sweep(self) -> None:
        while True:
            next_s = (
                time.monotonic() + self._sweep_s
            )  # from the start of this sweep, so that a long sweep does not delay the next one
            try:
                self._service.sweep(lambda: not self._stopping.is_set())
            except Exception:  # the next sweep tries again
                _log.exception("sweep failed")
            if self._stopping.wait(max(0.0, next_s - time.monotonic())):
                return
