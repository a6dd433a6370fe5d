"""The embedded server's threads: workers take messages from the queue, one sweeps, one wakes tasks that wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count

from llm_server.embedded.slots import Slots
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.service import Service
from llm_server.storage.memory_queue import WakeUpQueue

_log = logging.getLogger(__name__)

MIN_DEFAULT_WORKERS = 8
MAX_DEFAULT_WORKERS = 512
"""The limits of the number of workers that follows from the engines (ADR 25)."""
MAX_IDLE_S = 10.0
"""How long a worker waits for a message before its thread ends, if another worker waits too."""
MAX_SWEEP_S = 60
RETRY_S = 5


def workers_for(places: Mapping[str, int]) -> int:
    """Return how many tasks to carry out at a time: one for each place of the engines, from 8 to 512."""
    return min(max(MIN_DEFAULT_WORKERS, sum(places.values())), MAX_DEFAULT_WORKERS)


class Workers:
    """The worker threads, the sweeping and the waking thread of the embedded server. They can be started only once.

    One worker always waits for the next message, unless no slot is free: a worker that takes a message, or begins to
    wait for an engine, while no other waits for a message starts another one. The queue gives out `limit()` messages at
    a time, and up to as many again to tenants that have less than their equal share. `limit` is called for each
    message, so it may change while the server runs.
    """

    def __init__(
        self,
        service: Service,
        queue: WakeUpQueue,
        *,
        limit: Callable[[], int],
        sweep_s: int,
        new_id: Callable[[], str],
        slots: Slots,
        max_idle_s: float = MAX_IDLE_S,
    ) -> None:
        self._service = service
        self._queue = queue
        self._limit = limit
        self._sweep_s = min(sweep_s, MAX_SWEEP_S)
        self._new_id = new_id
        self._max_idle_s = max_idle_s
        self._slots = slots
        slots.on_free = self._grow_if_needed
        self._stopping = threading.Event()
        self._waker_is_needed = threading.Event()
        """Set when an engine has changed, and when the workers stop."""
        service.when_engines_change(self._waker_is_needed.set)
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._workers = set[threading.Thread]()
        self._idle = 0
        self._sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)
        self._waker = threading.Thread(target=self._wake, name="waker", daemon=True)

    @property
    def count(self) -> int:
        """How many worker threads there are now."""
        return len(self._workers)

    def start(self) -> None:
        self._sweeper.start()
        self._waker.start()
        self._grow()

    def stop(self, grace_s: float) -> int:
        """Take no more tasks, wait at most `grace_s` seconds for the threads, and return the number that still run."""
        with self._lock:  # no thread is started after this
            self._stopping.set()
            threads = [self._sweeper, self._waker, *self._workers]
        self._waker_is_needed.set()
        self._queue.wake_all()
        end = time.monotonic() + grace_s
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        return sum(thread.is_alive() for thread in threads)

    def _grow_if_needed(self) -> None:
        """Start another worker if a slot is free, and no worker waits for a message."""
        if self._idle == 0 and self._slots.any_free:
            self._grow()

    def _grow(self) -> None:
        """Start another worker, unless there are enough for all messages that the queue gives, or the workers stop."""
        limit = self._limit()
        with self._lock:
            if self._stopping.is_set() or len(self._workers) >= 2 * limit:
                return
            thread = threading.Thread(target=self._work, name=f"worker-{next(self._numbers)}", daemon=True)
            self._workers.add(thread)
            try:
                thread.start()
            except RuntimeError:  # the operating system gives no more threads
                self._workers.remove(thread)
                _log.warning("worker not started", extra={"workers": len(self._workers)})

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._next()
                if message is None:
                    return
                try:
                    with self._slots.slot(message.line):
                        self._process(message)
                finally:
                    self._queue.done(message)
            except StorageUnavailable:
                _log.debug("the database did not answer", exc_info=True)  # the writer warns of it
                self._stopping.wait(1)
            except Exception:  # an error with one task must not end the worker; the sweep wakes the task again
                _log.exception("task not processed")

    def _next(self) -> Message | None:
        """Wait for the next message. Returns None if this thread must end: the workers stop, or it is not needed."""
        while not self._stopping.is_set():
            with self._lock:
                self._idle += 1
            message = self._queue.receive(self._max_idle_s, self._stopping.is_set, limit=self._limit())
            with self._lock:
                self._idle -= 1
                another_waits = self._idle > 0
                if message is None and another_waits:
                    self._workers.remove(threading.current_thread())
                    break
            if message is not None:
                self._grow_if_needed()
                return message
        return None

    def _process(self, message: Message) -> None:
        """Carry a task out; if the database fails, send its message again, as SQS does."""
        try:
            self._service.process(message.ref, owner=self._new_id())
        except StorageUnavailable:
            self._queue.send(message.ref, delay_s=RETRY_S, priority=message.priority)
            raise

    def _sweep(self) -> None:
        """Sweep once a minute, counted from start to start, so that a long sweep does not delay the next one."""
        while not self._stopping.is_set():
            next_s = time.monotonic() + self._sweep_s
            try:
                self._service.sweep(lambda: not self._stopping.is_set())
            except Exception:  # the next sweep tries again
                _log.exception("sweep failed")
            self._stopping.wait(max(0.0, next_s - time.monotonic()))

    def _wake(self) -> None:
        """Wake the tasks that wait for an engine as soon as one is back, also while the other thread sweeps."""
        while self._waker_is_needed.wait() and not self._stopping.is_set():
            self._waker_is_needed.clear()
            try:
                self._service.wake_waiting(lambda: not self._stopping.is_set())
            except Exception:  # the sweep wakes the tasks
                _log.exception("tasks not woken")
