"""Process a wake-up: claim the task, carry it out, and store each state that it reaches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from llm_server.orchestration.conversations import history
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import NotClaimable, StorageUnavailable, TaskLost, TaskNotFound, TaskWaiting
from llm_server.orchestration.domain.output import PLAN, Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.conversations import TurnStore
from llm_server.orchestration.domain.ports.deltas import DeltaStore
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.retention import is_to_be_renewed
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Priority, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.domain.turns import Line
from llm_server.orchestration.events.recent_text import RecentText
from llm_server.orchestration.events.text_stream import TextStream
from llm_server.orchestration.execution.orchestrator import Orchestrator
from llm_server.orchestration.execution.outcome import Progress
from llm_server.orchestration.tasks.claimed_task import ClaimedTask, numbered_calls
from llm_server.orchestration.tasks.settlement import Settlement
from llm_server.orchestration.tasks.wakeups import WakeUps, log_fields

EARLY_MS = 1_000
"""How much too early a message may come, because the clocks of two machines differ."""
SUSPECT_PAUSE_S = 5
"""How long the message of a suspect is delayed while another suspect is carried out."""

_log = logging.getLogger(__name__)


class WorkStore(TaskStore, TurnStore, Protocol):
    """The part of the store that the worker uses."""


class Worker:
    """Carries out one claim for each wake-up.

    Several claims may run at the same time, but only one task that has already crashed workers (`Task.is_suspect`).
    """

    def __init__(
        self,
        *,
        store: WorkStore,
        ledger: Ledger,
        wakeups: WakeUps,
        orchestrator: Orchestrator,
        fleet: Fleet,
        clock: Clock,
        sleep: Callable[[float], None],
        window: Window,
        sweep_ms: int,
        deltas: DeltaStore,
        recent: RecentText,
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
        self._deltas = deltas
        self._recent = recent
        self._settlement = Settlement(store, ledger, clock)
        self._suspect_turn = threading.Lock()
        self._waiting_suspects = dict[TaskRef, Priority]()
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

        If the worker of a cancelled task has died, its calls that are not on the receipt are added to the receipt.
        `until_ms` is when this worker's own time ends (Unix milliseconds). A claim also stops a seventh of the lease
        before the lease ends, so that its last write comes while the lease holds.

        Raises:
            StorageUnavailable: the message should come again later; the lease then decides which worker goes on.
        """
        self._orchestrator.prepare()  # before the claim, which the embedded store carries out on its writer's thread
        try:
            if suspect := self._deliver(ref, owner, until_ms, suspects=False):
                self._deliver_suspect(suspect, owner, until_ms)
        except TaskNotFound as reason:
            _not_needed(ref, reason)

    def _deliver_suspect(self, suspect: Task, owner: str, until_ms: int | None) -> None:
        """Claim a suspect and carry it out. If another one is being carried out here, send its message again instead.

        It is not claimed then, so a crash caused by the other task does not use up one of its deliveries. When a
        suspect's turn ends, the one that has waited longest is woken at once.
        """
        ref, priority = suspect.ref, suspect.priority
        if not self._suspect_turn.acquire(blocking=False):
            with self._lock:
                self._waiting_suspects[ref] = priority
            self._wakeups.send(ref, priority, delay_s=SUSPECT_PAUSE_S)
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
            priority = self._waiting_suspects.pop(waiting)
        self._wakeups.send(waiting, priority)

    def _deliver(self, ref: TaskRef, owner: str, until_ms: int | None, *, suspects: bool) -> Task | None:
        """Claim a task and carry it out. If `suspects` is False, a suspect is returned with nothing done."""
        with self._cancellable(ref) as cancellation:  # before the claim, so that no cancellation is missed
            now_ms = self._clock()
            take = partial(self._taken, ref, owner, now_ms, suspects=suspects)
            snapshot, claimed = self._store.atomically(take, Line(ref.tenant))
            if left := snapshot.unsettled(now_ms):
                self._settlement.settle_dead(snapshot.task, left.attempts)
            elif claimed is not None:
                end_ms = now_ms + self._window.ms
                key_budget = KeyBudget.of(self._ledger, claimed.task)
                self._carry_out(claimed, key_budget, min(until_ms or end_ms, end_ms), cancellation)
            elif not suspects and snapshot.task.is_suspect(now_ms=now_ms):
                return snapshot.task
        return None

    def _taken(self, ref: TaskRef, owner: str, now_ms: int, *, suspects: bool) -> tuple[Snapshot, Snapshot | None]:
        """Return a task as it is stored, and as it is claimed; None if it is not to be claimed. Raises TaskNotFound."""
        snapshot = self._store.get(ref)
        if snapshot.unsettled(now_ms) or (snapshot.task.is_suspect(now_ms=now_ms) and not suspects):
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
        """Claim a task, book what a dead worker left, and announce the first calls, all in one save."""
        before, lost = snapshot.task, snapshot.lost(now_ms)
        try:
            self._check_wait(snapshot, now_ms)
            has_plan, lease_ms = PLAN in snapshot.outputs, now_ms + self._window.lease_s * 1000
            task = before.claimed(owner=owner, now_ms=now_ms, lease_ms=lease_ms, has_plan=has_plan, lost=lost)
            if is_to_be_renewed(before, now_ms):  # before the save: if this fails, the next claim does it
                self._store.retain(before)
            if before.has_dead_worker(now_ms) and (dead := KeyBudget.of(self._ledger, before)):
                dead.withhold()
            lost = lost and lost.at_rev(task.rev)
            outputs = snapshot.outputs if lost is None else {**snapshot.outputs, lost.key: lost}
            claimed = replace(snapshot, task=task, outputs=outputs)
            if snapshot.request.turns_before:
                told = history.read(self._store, snapshot, max_chars=self._orchestrator.max_history_chars)
                claimed = replace(claimed, history=told)
            foreseen = self._orchestrator.foresee(claimed, key_budget=KeyBudget.of(self._ledger, task))
            claimed = replace(claimed, task=replace(task, pending=numbered_calls(foreseen, task.rev)))
            self._store.save(before, claimed.task, lost)
        except (NotClaimable, TaskLost) as reason:
            _not_needed(before.ref, reason)
            return None
        return claimed

    def _check_wait(self, snapshot: Snapshot, now_ms: int) -> None:
        """Raise TaskWaiting if the task waits for an engine, the wait is not over, and no engine is back.

        A task that was woken early has two messages. If it has to wait again, this drops the older one, so that their
        number does not grow with each wake-up.
        """
        task = snapshot.task
        ends_ms = task.due_ms - self._sweep_ms - EARLY_MS
        if task.is_waiting and now_ms < ends_ms and not self._fleet.free(snapshot.allowed_engines):
            raise TaskWaiting(task.task_id)

    def _carry_out(
        self, snapshot: Snapshot, key_budget: KeyBudget | None, until_ms: int, cancellation: Cancellation
    ) -> None:
        """Carry out a claimed task; store each state. If another writer changed the task, stop and settle its cost."""
        text = self._text_stream(snapshot, until_ms, cancellation) if snapshot.request.stream else None
        claimed = ClaimedTask(
            snapshot.task,
            store=self._store,
            clock=self._clock,
            sleep=self._sleep,
            until_ms=until_ms,
            cancellation=cancellation,
            text=text,
        )
        run = self._orchestrator.run(
            snapshot,
            until_ms=until_ms,
            announce=claimed.announce,
            open_item=claimed.open_item if text else None,
            key_budget=key_budget,
            cancellation=cancellation,
        )
        lost, unsaved = False, list[Attempt]()
        with closing(run) as states, closing(text) if text else nullcontext():
            for progress in states:
                output = progress.output and claimed.with_numbers(progress.output)
                try:
                    self._save(claimed, replace(progress, output=output), snapshot.outputs)
                except TaskLost:
                    lost = True
                    unsaved += output.attempts if output else ()
        if lost:
            self._settlement.settle(claimed.task, tuple(unsaved))

    def _text_stream(self, snapshot: Snapshot, until_ms: int, cancellation: Cancellation) -> TextStream:
        """Begin the stream of a claim's text. If the answer of a dead worker is used, complete its item.

        A claim whose time is over may still save its answer, so its text is stored unless the task has ended.
        """
        ref = snapshot.task.ref
        text = TextStream(
            ref,
            snapshot.task.rev,
            store=self._deltas,
            recent=self._recent,
            clock=self._clock,
            is_over=lambda: cancellation.is_cancelled or (self._clock() > until_ms and self._has_ended(ref)),
        )
        if snapshot.orphan and snapshot.orphan.text is not None:
            with suppress(StorageUnavailable):
                text.resume()
            text.complete("", snapshot.orphan.text)
        return text

    def _save(self, claimed: ClaimedTask, progress: Progress, earlier: Mapping[OutputKey, Output]) -> None:
        """Store one state. If a step is done again after a retry, its output keeps the earlier attempts."""
        output = progress.output and progress.output.after(earlier.get(progress.output.key))
        claimed.save(progress.task, output, foreseen=progress.foreseen)
        task = claimed.task
        level = logging.INFO if task.status.is_final else logging.DEBUG
        _log.log(level, "task state", extra=log_fields(task))
        if task.status is Status.QUEUED:
            self._wakeups.send(task.ref, task.priority, delay_s=progress.delay_s)


def _not_needed(ref: TaskRef, reason: Exception) -> None:
    _log.debug("wake-up not needed", extra={"task_id": ref.task_id, "reason": type(reason).__name__})
