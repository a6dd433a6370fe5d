"""The embedded queue, in memory: when the server starts, its messages are made again from the stored tasks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count

from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.commit import AfterCommit, at_once
from llm_server.orchestration.domain.ports.queue import Message
from llm_server.orchestration.domain.status import Priority
from llm_server.orchestration.domain.task import TaskRef
from llm_server.orchestration.domain.turns import Line, Turns

MAX_LOOK_S = 1.0
"""How long a receiver waits for a delayed message before it asks the clock again, because the clock may be set."""


class WakeUpQueue:
    """The Queue port in the memory of one process. Receiving a message removes it, because it is only a wake-up.

    A receiver gets the message whose turn it is (`Turns`), and says when it is done with it. Messages of one line are
    received in the order in which they became visible. While receivers have as many messages as `receive` was told to
    allow, a message is given only to a tenant that has less than its equal share of them, up to as many again. So a
    tenant does not wait until the long tasks of another one end.

    `after_commit(send)` calls `send` once the transaction that is open on this thread has been committed, or at once if
    none is open. So no receiver looks for a task before the task is stored.

    A new message that may be given wakes the receiver that began to wait last, so that the others notice that they are
    not needed. One receiver at a time waits for the next delayed message; when it leaves, it wakes another one, which
    takes over.
    """

    def __init__(self, clock: Clock, after_commit: AfterCommit = at_once) -> None:
        self._clock = clock
        self._after_commit = after_commit
        self._lock = threading.Lock()
        self._numbers = count()
        self._ready = Turns[str]()
        self._delayed = list[tuple[int, int, str, Line]]()
        self._limit = sys.maxsize
        """How many messages receivers may have; the last receiver has told it."""
        self._waiting = list[threading.Lock]()
        self._timekeeper: threading.Lock | None = None
        self._closed = False

    def close(self) -> None:
        """End all waits. From now on, `send` raises StorageUnavailable and `receive` returns None."""
        self._closed = True
        self.wake_all()

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        if self._closed:
            raise StorageUnavailable("The queue is closed.")
        visible_ms = self._clock() + delay_s * 1000 if delay_s > 0 else 0
        self._after_commit(partial(self._put, Message(ref, priority), visible_ms))

    def refill(self, messages: Iterable[tuple[str, int, str]]) -> None:
        """Add messages: a task's reference as text, the Unix milliseconds from which it is visible, and its priority.

        A text that names no task, from a damaged record, is left out: a receiver would fail on it.
        """
        for text, visible_ms, priority in messages:
            with suppress(ValueError):
                self._put(Message(TaskRef.parse(text), Priority(priority)), visible_ms)

    def depth(self) -> int:
        with self._lock:
            return len(self._ready) + len(self._delayed)

    def receive(
        self, wait_s: float, stopping: Callable[[], bool] = lambda: False, *, limit: int = sys.maxsize
    ) -> Message | None:
        """Take one message. Wait at most `wait_s` seconds for one, then return None.

        `limit` is how many messages all receivers together may have, apart from those of tenants with less than their
        equal share.

        Returns None at once if `stopping()` is true, and ends the wait if it is true after a call of `wake_all`.
        """
        end = time.monotonic() + wait_s
        while True:
            now_ms = self._clock()
            with self._lock:
                self._limit = limit
                self._release_delayed(now_ms)
                ends = self._closed or stopping()
                taken = self._ready.take() if self._may_give() and not ends else None
                left_s = end - time.monotonic()
                if taken or ends or left_s <= 0:
                    if self._delayed or self._may_give():
                        self._wake()
                    return Message(TaskRef.parse(taken[1]), taken[0].priority) if taken else None
                receiver, left_s = self._joined(now_ms, left_s)
            if not receiver.acquire(timeout=left_s):
                with self._lock:
                    self._leave(receiver)

    def done(self, message: Message) -> None:
        """Count a received message as no longer with its receiver, who receives the next one now, or ends."""
        with self._lock:
            self._ready.give_back(message.line)

    def wake_all(self) -> None:
        """Make every waiting receiver look whether it is to stop."""
        with self._lock:
            while self._waiting:
                self._wake()

    def _may_give(self) -> bool:
        """Return whether a receiver may have the message whose turn it is."""
        ready = self._ready
        if not ready or ready.in_use < self._limit:
            return bool(ready)
        equal_share = max(1, self._limit // ready.tenants)
        return ready.in_use < 2 * self._limit and ready.fewest < equal_share

    def _put(self, message: Message, visible_ms: int) -> None:
        now_ms, text = self._clock(), str(message.ref)
        with self._lock:
            self._release_delayed(now_ms)
            if visible_ms <= now_ms:
                self._add(message.line, text)
                return
            heappush(self._delayed, (visible_ms, next(self._numbers), text, message.line))
            if self._delayed[0][2] is text:  # the timekeeper waits for a later message
                self._wake(self._timekeeper)

    def _release_delayed(self, now_ms: int) -> None:
        while self._delayed and self._delayed[0][0] <= now_ms:
            _, _, text, line = heappop(self._delayed)
            self._add(line, text)

    def _add(self, line: Line, text: str) -> None:
        self._ready.put(line, text)
        if self._may_give():
            self._wake()

    def _joined(self, now_ms: int, left_s: float) -> tuple[threading.Lock, float]:
        """Join the waiting receivers. Return the lock whose release wakes this one, and how long to wait for it."""
        receiver = threading.Lock()
        receiver.acquire()
        self._waiting.append(receiver)
        if self._delayed and self._timekeeper is None:
            self._timekeeper = receiver
            left_s = min(left_s, (self._delayed[0][0] - now_ms) / 1000, MAX_LOOK_S)
        return receiver, left_s

    def _wake(self, receiver: threading.Lock | None = None) -> None:
        """Wake a waiting receiver: the given one, or else the one that began to wait last."""
        if self._waiting:
            receiver = receiver or self._waiting[-1]
            self._leave(receiver)
            receiver.release()

    def _leave(self, receiver: threading.Lock) -> None:
        if receiver in self._waiting:
            self._waiting.remove(receiver)
        if receiver is self._timekeeper:
            self._timekeeper = None
