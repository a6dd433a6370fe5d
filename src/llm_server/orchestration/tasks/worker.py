"""Process a wake-up: claim the task, carry it out, and store each state that it reaches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.api_key import Account
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import NotClaimable, StorageUnavailable, TaskLost, TaskNotFound, TaskWaiting
from llm_server.orchestration.domain.output import PLAN, Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.retention import is_to_be_renewed
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.execution.orchestrator import Orchestrator
from llm_server.orchestration.execution.outcome import Progress
from llm_server.orchestration.tasks.settlement import Settlement
from llm_server.orchestration.tasks.wakeups import WakeUps, log_fields

SAVE_AGAIN_S = 0.1
MAX_SAVE_AGAIN_S = 5.0
"""The pauses between attempts to save a state grow from the first to the second value."""
EARLY_MS = 1_000
"""How much too early a message may come, because the clocks of two machines differ."""
SUSPECT_PAUSE_S = 5
"""How long the message of a suspect is delayed while another suspect is carried out."""

_log = logging.getLogger(__name__)


class Worker:
    """Carries out one claim for each wake-up.

    Several claims may run at the same time, but only one task that has already crashed workers (`Task.is_suspect`).
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        ledger: Ledger,
        wakeups: WakeUps,
        orchestrator: Orchestrator,
        fleet: Fleet,
        clock: Clock,
        sleep: Callable[[float], None],
        window: Window,
        sweep_ms: int,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._wakeups = wakeups
        self._orchestrator = orchestrator
        self._fleet = fleet
        self._clock = clock
        self._sleep = sleep
        self._window = window
        self._sweep_ms = sweep_ms
        self._settlement = Settlement(store, clock)
        self._suspect_turn = threading.Lock()
        self._waiting_suspects = dict[TaskRef, None]()
        """In the order in which they began to wait."""
        self._lock = threading.Lock()
        self._running: list[tuple[TaskRef, Cancellation]] = []

    def cancelled(self, ref: TaskRef) -> None:
        """End the engine calls of a cancelled task in this process at once."""
        with self._lock:
            running = [cancellation for working_on, cancellation in self._running if working_on == ref]
        for cancellation in running:
            cancellation.cancel()

    def process(self, ref: TaskRef, *, owner: str, until_ms: int | None) -> None:
        """Claim a task and carry it out until it is final or released. Does nothing if the task cannot be claimed.

        If a cancelled task has a kept answer whose cost is not on the receipt, that cost is added to the receipt.
        `until_ms` is when this worker's own time ends (Unix milliseconds). A claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: the message should come again later; the lease then decides which worker goes on.
        """
        try:
            if self._deliver(ref, owner, until_ms, suspects=False):
                self._deliver_suspect(ref, owner, until_ms)
        except TaskNotFound as reason:
            _not_needed(ref, reason)

    def _deliver_suspect(self, ref: TaskRef, owner: str, until_ms: int | None) -> None:
        """Claim a suspect and carry it out. If another one is being carried out here, send its message again instead.

        It is not claimed then, so a crash caused by the other task does not use up one of its deliveries. When a
        suspect's turn ends, the one that has waited longest is woken at once.
        """
        if not self._suspect_turn.acquire(blocking=False):
            with self._lock:
                self._waiting_suspects[ref] = None
            self._wakeups.send(ref, delay_s=SUSPECT_PAUSE_S)
            return
        try:
            with self._lock:
                self._waiting_suspects.pop(ref, None)
            self._deliver(ref, owner, until_ms, suspects=True)
        finally:
            self._suspect_turn.release()
            self._wake_suspect()

    def _wake_suspect(self) -> None:
        """Wake the suspect that has waited longest. Its delayed message then finds nothing to do."""
        with self._lock:
            waiting = next(iter(self._waiting_suspects), None)
            if waiting is None:
                return
            del self._waiting_suspects[waiting]
        self._wakeups.send(waiting)

    def _deliver(self, ref: TaskRef, owner: str, until_ms: int | None, *, suspects: bool) -> bool:
        """Claim a task and carry it out. Returns True, with nothing done, for a suspect if `suspects` is False."""
        with self._cancellable(ref) as cancellation:  # before the claim, so that no cancellation is missed
            now_ms = self._clock()
            snapshot, claimed = self._store.atomically(lambda: self._taken(ref, owner, now_ms, suspects=suspects))
            if left := snapshot.unsettled:
                self._settlement.settle(snapshot.task, left.attempts)
            elif claimed is not None:
                end_ms = now_ms + self._window.ms
                self._carry_out(claimed, min(until_ms or end_ms, end_ms), cancellation)
            else:
                return not suspects and snapshot.task.is_suspect(now_ms=now_ms)
        return False

    def _taken(self, ref: TaskRef, owner: str, now_ms: int, *, suspects: bool) -> tuple[Snapshot, Snapshot | None]:
        """Return a task as it is stored, and as it is claimed; None if it is not to be claimed. Raises TaskNotFound."""
        snapshot = self._store.get(ref)
        if snapshot.unsettled or (snapshot.task.is_suspect(now_ms=now_ms) and not suspects):
            return snapshot, None
        return snapshot, self._claimed(snapshot, owner, now_ms)

    @contextmanager
    def _cancellable(self, ref: TaskRef) -> Iterator[Cancellation]:
        """Yield a cancellation for the engine calls made inside the block; `cancelled` ends them."""
        cancellation = Cancellation(lambda: self._has_ended(ref), self._clock)
        with self._lock:
            self._running.append((ref, cancellation))
        try:
            yield cancellation
        finally:
            with self._lock:
                self._running.remove((ref, cancellation))

    def _has_ended(self, ref: TaskRef) -> bool:
        try:
            return self._store.peek(ref).status.is_final
        except TaskNotFound:
            return True
        except StorageUnavailable:
            return False

    def _claimed(self, snapshot: Snapshot, owner: str, now_ms: int) -> Snapshot | None:
        try:
            self._check_wait(snapshot, now_ms)
            has_plan = PLAN in snapshot.outputs
            task = snapshot.task.claimed(
                owner=owner, now_ms=now_ms, lease_ms=now_ms + self._window.lease_s * 1000, has_plan=has_plan
            )
            if is_to_be_renewed(snapshot.task, now_ms):  # before the save: if this fails, the next claim does it
                self._store.retain(snapshot.task)
            self._store.save(snapshot.task, task)
        except (NotClaimable, TaskLost) as reason:
            _not_needed(snapshot.task.ref, reason)
            return None
        return replace(snapshot, task=task)

    def _check_wait(self, snapshot: Snapshot, now_ms: int) -> None:
        """Raise TaskWaiting if the task waits for an engine, the wait is not over, and no engine is back.

        A task that was woken early has two messages. If it has to wait again, this drops the older one, so that their
        number does not grow with each wake-up.
        """
        task = snapshot.task
        ends_ms = task.due_ms - self._sweep_ms - EARLY_MS
        if task.is_waiting and now_ms < ends_ms and not self._fleet.free(snapshot.allowed_engines):
            raise TaskWaiting(task.task_id)

    def _carry_out(self, snapshot: Snapshot, until_ms: int, cancellation: Cancellation) -> None:
        """Carry out a claimed task; store each state. If another writer changed the task, stop and settle its cost."""
        task, unsaved = snapshot.task, list[Attempt]()
        run = self._orchestrator.run(
            snapshot, until_ms=until_ms, key_budget=self._key_budget(snapshot), cancellation=cancellation
        )
        lost = False
        with closing(run) as states:
            for progress in states:
                try:
                    if not lost:
                        task = self._saved(task, progress, snapshot.outputs, until_ms)
                    cancellation.mark_checked()
                except TaskLost:
                    lost = True
                    cancellation.cancel()
                if lost and progress.output:
                    unsaved += progress.output.attempts
        if lost:
            self._settlement.settle(task, tuple(unsaved))

    def _saved(self, task: Task, progress: Progress, earlier: Mapping[OutputKey, Output], until_ms: int) -> Task:
        """Store one state. If a step is done again after a retry, its output keeps the earlier attempts."""
        output = progress.output and progress.output.after(earlier.get(progress.output.key))
        self._save(task, progress.task, output, until_ms)
        task = progress.task
        level = logging.INFO if task.status.is_final else logging.DEBUG
        _log.log(level, "task state", extra=log_fields(task))
        if task.status is Status.QUEUED:
            self._wakeups.send(task.ref, delay_s=progress.delay_s)
        return task

    def _save(self, before: Task, after: Task, output: Output | None, until_ms: int) -> None:
        """Save a state; if the store does not answer, try again until `until_ms`, because its calls are paid for."""
        pause_s = SAVE_AGAIN_S
        while True:
            try:
                self._store.save(before, after, output)
                return
            except StorageUnavailable:
                if self._clock() + pause_s * 1000 > until_ms:
                    raise
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_SAVE_AGAIN_S)

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
