"""Wakes what is open and due: tasks whose message was lost, and those whose worker died."""

from __future__ import annotations

import logging

from llm_server.orchestration.errors import TaskNotFound
from llm_server.orchestration.ports import Clock, Due, Store
from llm_server.orchestration.task import Status, Task
from llm_server.orchestration.wakeups import WakeUps, log_fields

_log = logging.getLogger(__name__)

SWEEP_MOST = 200


class Sweep:
    """The net under the queue; two at once wake nothing twice."""

    def __init__(self, *, store: Store, wakeups: WakeUps, clock: Clock, sweep_ms: int) -> None:
        self._store = store
        self._wakeups = wakeups
        self._clock = clock
        self._sweep_ms = sweep_ms

    def run(self) -> int:
        """Wake what is open and due: tasks whose message was lost and whose worker died. Returns how many it woke."""
        woken, waiting = 0, None
        for due in self._store.due(self._clock(), SWEEP_MOST):
            try:
                task = self._store.peek(due.ref)
            except TaskNotFound:
                continue
            if task.status is Status.QUEUED and waiting is None:
                others = self._wakeups.waiting() - woken  # what this sweep has just sent is for active tasks
                waiting = others >= self._store.overview()[0].queued
            merely_waiting = task.status is Status.QUEUED and bool(waiting)
            woken += self._wake(due, task, merely_waiting=merely_waiting)
        return woken

    def _wake(self, due: Due, task: Task, *, merely_waiting: bool) -> bool:
        """Move the due time on, then send: in this order, so that two sweeps at once send once."""
        now_ms = self._clock()
        doubled_ms = now_ms + max(self._sweep_ms, now_ms - task.created_ms)
        if task.status.is_active and task.lease_ms > now_ms:
            self._store.postpone(due, task.lease_ms)
            return False
        if not self._store.postpone(due, doubled_ms) or merely_waiting:
            return False
        _log.info("task woken by the sweep", extra=log_fields(task))
        return self._wakeups.send(due.ref)
