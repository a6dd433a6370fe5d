"""Wakes what is open and due: tasks whose message was lost, whose worker died, or whose deadline has come."""

from __future__ import annotations

import logging

from llm_server.orchestration.errors import TaskLost, TaskNotFound
from llm_server.orchestration.outputs import Output
from llm_server.orchestration.ports import Clock, Due, Store
from llm_server.orchestration.retention import SLACK_MS
from llm_server.orchestration.task import DAY_MS, Status, Task
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
                self._store.purge(due.ref)
                continue
            if self._clock() - task.created_ms > SLACK_MS // 2:
                self._store.retain(task)
            if task.status is Status.QUEUED and waiting is None:
                others = self._wakeups.waiting() - woken  # what this sweep has just sent is for active tasks
                waiting = others >= self._store.overview()[0].queued
            merely_waiting = task.status is Status.QUEUED and bool(waiting)
            woken += self._wake(due, task, merely_waiting=merely_waiting)
        self._store.prune(SWEEP_MOST)
        return woken

    def _wake(self, due: Due, task: Task, *, merely_waiting: bool) -> bool:
        """Move the due time on, then send: in this order, so that two sweeps at once send once."""
        now_ms = self._clock()
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
        snapshot = self._store.get(task.ref)
        if snapshot.orphan:
            return False
        why = Output(key=f"TRY#{task.fence}", created_ms=now_ms, error=snapshot.request.limits.overdue)
        try:
            self._store.save(task, task.failed(why, overdue=True))
        except TaskLost:
            return True
        _log.info("task failed by the sweep", extra=log_fields(task))
        return True
