"""What a worker does with a wake-up: claim, carry out, store each state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace

from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.api_key import Account
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import NotClaimable, StorageUnavailable, TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import PLAN, Output, OutputKey
from llm_server.orchestration.domain.ports import Clock, Ledger, TaskStore
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.retention import is_to_be_renewed
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.execution.orchestrator import Orchestrator
from llm_server.orchestration.execution.outcome import Progress
from llm_server.orchestration.tasks.settlement import Settlement
from llm_server.orchestration.tasks.wakeups import WakeUps, log_fields

_log = logging.getLogger(__name__)


class Worker:
    """Carries tasks out, one claim a wake-up; several may run at the same time, but of suspects one."""

    def __init__(
        self,
        *,
        store: TaskStore,
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
        self._settlement = Settlement(store, clock)
        self._suspects = threading.Lock()
        self._lock = threading.Lock()
        self._listening: list[tuple[TaskRef, Cancellation]] = []

    def cancelled(self, ref: TaskRef) -> None:
        """Tell those of this process who work on a task that it was cancelled: its engine calls end at once."""
        with self._lock:
            told = [cancellation for listening, cancellation in self._listening if listening == ref]
        for cancellation in told:
            cancellation.tell()

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None) -> None:
        """Carry a task out as far as one claim goes; a doubled, late or unknown wake-up does nothing.

        What the worker of a cancelled task paid for a kept answer, and could not put on the receipt, is put there.
        `until_ms` is when this worker's own time ends (Unix milliseconds); a claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: wake up again later; the lease decides who goes on, and a cancelled task is settled.
        """
        try:
            snapshot = self._store.get(ref)
        except TaskNotFound as reason:
            _not_needed(ref, reason)
            return
        if left := snapshot.unsettled:
            self._settlement.settle(snapshot.task, left.attempts)
            return
        # whoever waits here is not claimed yet: if the one before kills this process, that is no attempt of theirs
        with self._suspects if snapshot.task.is_suspect(now_ms=self._clock()) else nullcontext():
            now_ms = self._clock()
            lease_end_ms = now_ms + self._lease_ms * 6 // 7
            with self._listened_to(ref) as cancellation:  # before the claim: afterwards a word could be missed
                claimed = self._claimed(snapshot, owner, now_ms)
                if claimed is not None:
                    self._carry_out(claimed, min(until_ms or lease_end_ms, lease_end_ms), cancellation)

    @contextmanager
    def _listened_to(self, ref: TaskRef) -> Iterator[Cancellation]:
        listening = ref, Cancellation(lambda: self._has_ended(ref), self._clock)
        with self._lock:
            self._listening.append(listening)
        try:
            yield listening[1]
        finally:
            with self._lock:
                self._listening.remove(listening)

    def _has_ended(self, ref: TaskRef) -> bool:
        try:
            return self._store.peek(ref).status.is_final
        except TaskNotFound:
            return True
        except StorageUnavailable:
            return False

    def _claimed(self, snapshot: Snapshot, owner: str, now_ms: int) -> Snapshot | None:
        try:
            has_plan = PLAN in snapshot.outputs
            task = snapshot.task.claimed(
                owner=owner, now_ms=now_ms, lease_ms=now_ms + self._lease_ms, has_plan=has_plan
            )
            if is_to_be_renewed(snapshot.task, now_ms):  # before the save: failed, it is done by the next claim
                self._store.retain(snapshot.task)
            self._store.save(snapshot.task, task)
        except (NotClaimable, TaskLost) as reason:
            _not_needed(snapshot.task.ref, reason)
            return None
        return replace(snapshot, task=task)

    def _carry_out(self, snapshot: Snapshot, until_ms: int, cancellation: Cancellation) -> None:
        """Store each state. Once the task is lost, calls end and none begins; what they cost is still handed over."""
        task, unsaved = snapshot.task, list[Attempt]()
        run = self._orchestrator.run(
            snapshot, until_ms=until_ms, key_budget=self._key_budget(snapshot), cancellation=cancellation
        )
        lost = False
        with closing(run) as states:
            for progress in states:
                try:
                    task = task if lost else self._saved(task, progress, snapshot.outputs)
                    cancellation.goes_on()
                except TaskLost:
                    lost = True
                    cancellation.tell()
                if lost and progress.output:
                    unsaved += progress.output.attempts
        if lost:
            self._settlement.settle(task, tuple(unsaved))

    def _saved(self, task: Task, progress: Progress, earlier: Mapping[OutputKey, Output]) -> Task:
        """Store one state; what a step cost that is done again, after a retry, stays under its key."""
        output = progress.output and progress.output.after(earlier.get(progress.output.key))
        if output and output.is_answer:
            self._store.keep(task.ref, output)
            output = None
        self._store.save(task, progress.task, output)
        task = progress.task
        level = logging.INFO if task.status.is_final else logging.DEBUG
        _log.log(level, "task state", extra=log_fields(task))
        if task.status is Status.QUEUED:
            self._wakeups.send(task.ref, delay_s=progress.delay_s)
        return task

    def _key_budget(self, snapshot: Snapshot) -> KeyBudget | None:
        task = snapshot.task
        if task.charge is None:
            return None
        return KeyBudget(
            self._ledger,
            Account(task.charge.key_id, day_of(self._clock())),
            max_microusd=task.charge.microusd_per_day,
            claim=f"{task.task_id[-12:]}#{task.fence}",
        )


def _not_needed(ref: TaskRef, reason: Exception) -> None:
    _log.debug("wake-up not needed", extra={"task_id": ref.task_id, "reason": type(reason).__name__})
