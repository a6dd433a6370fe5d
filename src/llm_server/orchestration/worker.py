"""What a worker does with a wake-up: claim, carry out, store each state."""

from __future__ import annotations

import logging
import threading
from contextlib import closing, nullcontext
from dataclasses import replace

from llm_server.orchestration.budget import DailyCap
from llm_server.orchestration.errors import NotClaimable, TaskLost, TaskNotFound
from llm_server.orchestration.key import Account
from llm_server.orchestration.metrics import day_of
from llm_server.orchestration.orchestrator import Orchestrator
from llm_server.orchestration.ports import Clock, Ledger, Store
from llm_server.orchestration.snapshot import Snapshot
from llm_server.orchestration.task import Status, TaskRef
from llm_server.orchestration.wakeups import WakeUps, log_fields

_log = logging.getLogger(__name__)


class Worker:
    """Carries tasks out, one claim a wake-up; several may run at the same time, but of suspects one."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        wakeups: WakeUps,
        orchestrator: Orchestrator,
        clock: Clock,
        lease_ms: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._wakeups = wakeups
        self._orchestrator = orchestrator
        self._clock = clock
        self._lease_ms = lease_ms
        self._suspects = threading.Lock()

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None) -> None:
        """Carry a task out as far as one claim goes; a doubled, late or unknown wake-up does nothing.

        `until_ms` is when this worker's own time ends (Unix milliseconds); a claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: wake up again later; the lease decides who goes on.
        """
        try:
            snapshot = self._store.get(ref)
        except TaskNotFound as reason:
            _not_needed(ref, reason)
            return
        # whoever waits here is not claimed yet: if the one before kills this process, that is no attempt of theirs
        with self._suspects if snapshot.task.is_suspect(now_ms=self._clock()) else nullcontext():
            self._claim_and_carry_out(snapshot, owner, until_ms)

    def _claim_and_carry_out(self, snapshot: Snapshot, owner: str, until_ms: int | None) -> None:
        now_ms = self._clock()
        try:
            has_plan = "PLAN" in snapshot.outputs
            task = snapshot.task.claimed(
                owner=owner, now_ms=now_ms, lease_ms=now_ms + self._lease_ms, has_plan=has_plan
            )
            self._store.save(snapshot.task, task)
        except (NotClaimable, TaskLost) as reason:
            _not_needed(snapshot.task.ref, reason)
            return
        lease_end_ms = now_ms + self._lease_ms * 6 // 7
        try:
            self._carry_out(replace(snapshot, task=task), min(until_ms or lease_end_ms, lease_end_ms))
        except TaskLost:
            _log.warning("task lost to another worker", extra=log_fields(task))

    def _carry_out(self, snapshot: Snapshot, until_ms: int) -> None:
        task = snapshot.task
        with closing(self._orchestrator.run(snapshot, until_ms=until_ms, daily=self._daily(snapshot))) as states:
            for progress in states:
                output = progress.output
                if output and output.is_answer:
                    self._store.keep(task.ref, output)
                    output = None
                self._store.save(task, progress.task, output)
                task = progress.task
                level = logging.INFO if task.status.is_final else logging.DEBUG
                _log.log(level, "task state", extra=log_fields(task))
                if task.status is Status.QUEUED:
                    self._wakeups.send(task.ref, delay_s=progress.delay_s)

    def _daily(self, snapshot: Snapshot) -> DailyCap | None:
        charge, task = snapshot.request.charge, snapshot.task
        if charge is None:
            return None
        return DailyCap(
            self._ledger,
            Account(charge.key_id, day_of(self._clock())),
            most_microusd=charge.microusd_per_day,
            claim=f"{task.task_id[-12:]}#{task.fence}",
        )


def _not_needed(ref: TaskRef, reason: Exception) -> None:
    _log.debug("wake-up not needed", extra={"task_id": ref.task_id, "reason": type(reason).__name__})
