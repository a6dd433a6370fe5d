"""Wakes what is open and due: tasks whose message was lost, whose worker died, or whose deadline has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Protocol

from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports import Clock, CounterStore, Due, SweepIndex, TaskStore
from llm_server.orchestration.domain.retention import SLACK_MS
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.orchestration.tasks.wakeups import WakeUps, log_fields

_log = logging.getLogger(__name__)

LOOKS_MS = 45_000
"""How long a sweep looks at tasks: the next one comes a minute after its start."""
MAX_PEEK = 100
MAX_PRUNE = 200
PUT_OFF_MS = 3_600_000
"""How long a record that nobody can look at is left alone."""


class SweptStore(TaskStore, SweepIndex, CounterStore, Protocol):
    """What the sweep needs of the store."""


class Sweep:
    """The net under the queue; two at once wake nothing twice."""

    def __init__(self, *, store: SweptStore, wakeups: WakeUps, clock: Clock, sweep_ms: int) -> None:
        self._store = store
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def run(self, goes_on: Callable[[], bool] = lambda: True) -> int:
        """Wake what is open and due, until nothing is, 45 s are over or it `goes_on` no more. Returns how many."""
        try:
            return self._look_at_all(goes_on)
        finally:
            self._store.prune(MAX_PRUNE)

    def _look_at_all(self, goes_on: Callable[[], bool]) -> int:
        woken, waiting = 0, None
        for due, task in self._due(goes_on):
            queued = task.status is Status.QUEUED
            if queued and waiting is None:
                waiting = self._is_merely_long(sent=woken)
            with self._apart(due):
                woken += self._look(due, task, merely_waiting=queued and bool(waiting))
        return woken

    def _due(self, goes_on: Callable[[], bool]) -> Iterator[tuple[Due, Task]]:
        """What is due, as far as the time goes; what has no state to look at is dealt with here."""
        until_ms = self._clock() + LOOKS_MS
        dues = self._store.due(self._clock())
        while some := list(islice(dues, MAX_PEEK)):
            tasks = self._store.peek_each([due.ref for due in some])
            for due in some:
                if self._clock() >= until_ms or not goes_on():
                    return
                if due.ref not in tasks:
                    with self._apart(due):
                        self._store.purge(due.ref)
                elif (task := tasks[due.ref]) is not None:
                    yield due, task
                else:
                    _log.error("task not readable", extra={"task_id": due.ref.task_id})
                    self._put_off(due)

    @contextmanager
    def _apart(self, due: Due) -> Iterator[None]:
        """Whatever one record does to a look, the others are looked at."""
        try:
            yield
        except StorageUnavailable:  # it passes, and the task stays due: the next sweep is a minute away
            _log.warning("task not looked at", extra={"task_id": due.ref.task_id})
        except Exception:  # nobody can foresee what is wrong with a record; it is told, and out of the others' way
            _log.exception("task put off by the sweep", extra={"task_id": due.ref.task_id})
            self._put_off(due)

    def _put_off(self, due: Due) -> None:
        with suppress(StorageUnavailable):
            self._store.postpone(due, None, self._clock() + PUT_OFF_MS)

    def _is_merely_long(self, *, sent: int) -> bool:
        """Whether each task that waits has a message; what this sweep has just `sent` is for active tasks."""
        return self._wakeups.waiting() - sent >= self._store.overview()[0].queued

    def _look(self, due: Due, task: Task, *, merely_waiting: bool) -> bool:
        """Move the due time on, then send: in this order, so that two sweeps at once send once."""
        now_ms = self._clock()
        if now_ms - task.created_ms > SLACK_MS // 2:
            self._store.retain(task)
        if task.status.is_active and task.lease_ms > now_ms:
            self._store.postpone(due, task, task.lease_ms)
            return False
        if task.is_overdue(now_ms) and self._failed(task, now_ms):
            return False
        later_ms = now_ms + min(max(self._sweep_ms, now_ms - task.created_ms), DAY_MS)
        if task.deadline_ms is not None and task.deadline_ms > now_ms:
            later_ms = min(later_ms, task.deadline_ms)
        asleep = merely_waiting or (task.awaits_approval and now_ms < task.due_ms)
        if not self._store.postpone(due, task, later_ms) or asleep:
            return False
        _log.info("task woken by the sweep", extra=log_fields(task))
        return self._wakeups.send(due.ref)

    def _failed(self, task: Task, now_ms: int) -> bool:
        """Fail a task in its time, however long the queue is; False where an answer waits to be taken up."""
        try:
            snapshot = self._store.get(task.ref)
        except TaskNotFound:  # deleted since it was looked at
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
