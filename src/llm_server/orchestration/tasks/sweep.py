"""Wakes open tasks that are due: the message was lost, the worker died, or the deadline has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from math import inf
from typing import Protocol

from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import MAX_RETRY_AFTER_S, MAX_STATE_AGE_MS
from llm_server.orchestration.domain.errors import RecordUnreadable, StorageUnavailable, TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.store import CounterStore, EngineStateStore
from llm_server.orchestration.domain.ports.tasks import Due, SweepIndex, TaskStore
from llm_server.orchestration.domain.retention import SLACK_MS
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.orchestration.tasks.wakeups import WakeUps, log_fields

_log = logging.getLogger(__name__)

LOOKS_MS = 45_000
"""How long one sweep may look at tasks. It ends before the next one, which starts a minute after it has started."""
WAKES_MS = 15_000
"""How much of that time may be spent on tasks whose engine is back before the due tasks are looked at."""
MAX_WAIT_MS = MAX_RETRY_AFTER_S * 1000
"""How long a task waits at most until it looks again by itself whether an engine is back."""
MAX_PEEK = 100
MAX_PRUNE = 50
"""How many expired tasks one transaction removes: requests wait for it."""
PRUNES_MS = 10_000
"""How long one sweep may remove what has expired, after it has looked at tasks. Both end before the next sweep."""
PUT_OFF_MS = 3_600_000
"""How long the sweep ignores a record that it could not handle."""


class SweptStore(TaskStore, SweepIndex, CounterStore, EngineStateStore, Protocol):
    """The part of the store that the sweep uses."""


class Sweep:
    """Finds open tasks that have neither a message nor a worker, and wakes a worker for each.

    It also wakes tasks that wait for an engine, when one is back, because their messages are delayed.

    Two sweeps at the same time wake a task once.
    """

    def __init__(self, *, store: SweptStore, wakeups: WakeUps, fleet: Fleet, clock: Clock, sweep_ms: int) -> None:
        self._store = store
        self._wakeups = wakeups
        self._fleet = fleet
        self._clock = clock
        self._sweep_ms = sweep_ms

    def run(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Wake waiting and due tasks for 45 s, then remove what has expired for 10 s at most; while `may_continue()`.

        Tasks that wait have the first 15 s, and what the due ones leave. Returns how many tasks were woken.
        """
        wakes_until_ms, until_ms = self._clock() + WAKES_MS, self._clock() + LOOKS_MS
        try:
            returned_ms = self._stored_return_ms()
            woken = self._wake_waiting(returned_ms, wakes_until_ms, may_continue, delayed=True)
            time_is_up = self._clock() >= wakes_until_ms
            woken += self._look_at_all(until_ms, may_continue)
            if time_is_up:
                woken += self._wake_waiting(returned_ms, until_ms, may_continue, delayed=True)
            return woken
        finally:
            self._prune(may_continue)

    def _prune(self, may_continue: Callable[[], bool]) -> None:
        """Remove what has expired in small transactions. Between them, other threads write."""
        until_ms = self._clock() + PRUNES_MS
        while may_continue() and self._store.prune(MAX_PRUNE) and self._clock() < until_ms:
            pass

    def wake_waiting(self, may_continue: Callable[[], bool] = lambda: True) -> int:
        """Wake the tasks that wait for an engine, if one is back, while it is and `may_continue()`.

        Called in the process that has switched the engine, or has found that it works again. Returns how many tasks
        were woken.
        """
        returned_ms = self._fleet.last_return_ms()

        def is_back() -> bool:
            return may_continue() and self._fleet.last_return_ms() >= returned_ms

        return self._wake_waiting(returned_ms, inf, is_back, delayed=False)

    def _stored_return_ms(self) -> int:
        """Return when an engine last came back, as any process has stored it; 0 if that cannot be read."""
        try:
            return self._fleet.last_return_ms(self._store.engines())
        except (StorageUnavailable, RecordUnreadable):  # the due tasks must be looked at nevertheless
            _log.warning("engine states not read")
            return 0

    def _wake_waiting(
        self, returned_ms: int, until_ms: float, may_continue: Callable[[], bool], *, delayed: bool
    ) -> int:
        """Wake the tasks that have waited since before an engine came back, those that are due first before others.

        If `delayed`, the messages arrive when every process knows that the engine is back.
        """
        now_ms = self._clock()
        known_ms = returned_ms + MAX_STATE_AGE_MS
        if now_ms >= known_ms + MAX_WAIT_MS:  # since then, each of them has looked by itself
            return 0
        woken, delay_s = 0, max(0, -((now_ms - known_ms) // 1000)) if delayed else 0
        last_ms = now_ms + MAX_WAIT_MS + self._sweep_ms
        for due, task in self._due(last_ms, until_ms, may_continue):
            was_woken = due.due_ms != task.next_look_ms
            if task.is_waiting and not was_woken and task.updated_ms < known_ms:
                with self._isolated(due):
                    if self._store.postpone(due, task, self._next_look_ms(task)):
                        woken += self._wakeups.send(due.ref, task.priority, delay_s=delay_s)
        return woken

    def _look_at_all(self, until_ms: int, may_continue: Callable[[], bool]) -> int:
        woken = 0
        all_have_messages: bool | None = None  # asked once, and only if a Queued task is due
        for due, task in self._due(self._clock(), until_ms, may_continue):
            is_queued = task.status is Status.QUEUED
            if is_queued and all_have_messages is None:
                all_have_messages = self._all_queued_have_messages(sent=woken)
            with self._isolated(due):
                if self._look(due, task, has_message=is_queued and bool(all_have_messages)):
                    woken += 1
        return woken

    def _due(self, last_ms: int, until_ms: float, may_continue: Callable[[], bool]) -> Iterator[tuple[Due, Task]]:
        """Yield the tasks due at `last_ms`, until `until_ms`. Purge deleted tasks, put off unreadable records."""
        dues = self._store.due(last_ms)
        while some := list(islice(dues, MAX_PEEK)):
            tasks = self._store.peek_each([due.ref for due in some])
            for due in some:
                if self._clock() >= until_ms or not may_continue():
                    return
                if due.ref not in tasks:
                    with self._isolated(due):
                        self._store.purge(due.ref)
                elif (task := tasks[due.ref]) is not None:
                    yield due, task
                else:
                    _log.error("task not readable", extra={"task_id": due.ref.task_id})
                    self._put_off(due)

    @contextmanager
    def _isolated(self, due: Due) -> Iterator[None]:
        """Log an error with one record, so that the sweep goes on with the other records."""
        try:
            yield
        except StorageUnavailable:  # temporary; the task stays due, and the next sweep comes in a minute
            _log.warning("task not looked at", extra={"task_id": due.ref.task_id})
        except Exception:  # a damaged record can fail in any way; it must not stop the sweep of the others
            _log.exception("task put off by the sweep", extra={"task_id": due.ref.task_id})
            self._put_off(due)

    def _put_off(self, due: Due) -> None:
        with suppress(StorageUnavailable):
            self._store.postpone(due, None, self._clock() + PUT_OFF_MS)

    def _all_queued_have_messages(self, *, sent: int) -> bool:
        """Return whether every Queued task has a message: then the queue is long, and no message was lost.

        `sent` is how many messages this sweep has sent for active tasks. They do not count.
        """
        return self._wakeups.waiting() - sent >= self._store.overview()[0].queued

    def _look(self, due: Due, task: Task, *, has_message: bool) -> bool:
        """Look at one due task: postpone its due time, then wake a worker if needed. Returns whether it did.

        In this order, two concurrent sweeps send only one message.
        """
        now_ms = self._clock()
        if now_ms - task.created_ms > SLACK_MS // 2:
            self._store.retain(task)
        if task.status.is_active and task.lease_ms > now_ms:
            self._store.postpone(due, task, task.lease_ms)
            return False
        if task.is_overdue(now_ms) and self._failed(task, now_ms):
            return False
        needs_no_message = has_message or (task.awaits_approval and now_ms < task.due_ms)
        if not self._store.postpone(due, task, self._next_look_ms(task)) or needs_no_message:
            return False
        _log.info("task woken by the sweep", extra=log_fields(task))
        return self._wakeups.send(due.ref, task.priority)

    def _next_look_ms(self, task: Task) -> int:
        """Return when to look again at a task that is looked at now: the older the task, the later."""
        now_ms = self._clock()
        later_ms = now_ms + min(max(self._sweep_ms, now_ms - task.created_ms), DAY_MS)
        if task.deadline_ms is not None and task.deadline_ms > now_ms:
            later_ms = min(later_ms, task.deadline_ms)
        return later_ms

    def _failed(self, task: Task, now_ms: int) -> bool:
        """Fail an overdue task. Returns False if a worker must use the answer of a dead one instead."""
        try:
            snapshot = self._store.get(task.ref)
        except TaskNotFound:  # the task was deleted in between
            return True
        if snapshot.orphan:
            return False
        why = Output(key=OutputKey.of_try(task.fence), created_ms=now_ms, error=snapshot.request.limits.overdue)
        try:
            self._store.save(task, task.failed(why, overdue=True))
        except TaskLost:
            return True
        _log.info("task failed by the sweep", extra=log_fields(task))
        return True
