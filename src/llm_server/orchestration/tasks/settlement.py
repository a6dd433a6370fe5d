"""Records on a cancelled task's receipt the calls that its worker paid for (ADR 11)."""

from __future__ import annotations

import logging

from llm_server.orchestration.dispatch.key_budget import KeyBudget
from llm_server.orchestration.domain.errors import StateConflict, StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.keys import Ledger
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.tasks import change
from llm_server.orchestration.tasks.change import Change
from llm_server.orchestration.tasks.wakeups import log_fields

_log = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often a settlement is tried while the store cannot be reached."""


class Settlement:
    """Makes the last write for a cancelled task. Its output key names the claim, so a claim is settled only once."""

    def __init__(self, store: TaskStore, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    def settle_dead(self, task: Task, attempts: tuple[Attempt, ...]) -> None:
        """Settle the claim of a worker that died: also withhold what it has reserved from the task's API key.

        Raises as `settle`.
        """
        if dead := KeyBudget.of(self._ledger, task):
            dead.withhold()
        self.settle(task, attempts)

    def settle(self, mine: Task, attempts: tuple[Attempt, ...]) -> None:
        """Add calls that a claim paid for but has not saved to the task's receipt, if the task is Cancelled.

        `mine` is the state that the claim last saved.

        Raises:
            StorageUnavailable: the message should come again; the next worker settles an answer that was kept.
        """
        output = Output(key=OutputKey.of_try(mine.fence), created_ms=self._clock(), attempts=attempts)
        for number in range(1, MAX_TRIES + 1):
            try:
                settled = self._settled(mine, output)
                break
            except StorageUnavailable:
                if number == MAX_TRIES:
                    raise
        if settled:
            _log.info("work on a cancelled task ended", extra=log_fields(mine))
        else:
            _log.warning("task lost to another worker", extra=log_fields(mine))

    def _settled(self, mine: Task, output: Output) -> bool:
        """Try to settle once. Returns False if there is nothing to settle, or other writers keep changing the task."""

        def decide(snapshot: Snapshot) -> Change | None:
            if snapshot.task.status is not Status.CANCELLED:
                return None
            if output.key in snapshot.outputs:  # another writer found our answer and stored its calls
                nothing = Output(key=output.key, created_ms=output.created_ms)
                return Change(after=snapshot.task.settled(nothing))
            return Change(after=snapshot.task.settled(output), output=output if output.attempts else None)

        try:
            return change.apply(self._store, mine.ref, decide)[1] is not None
        except TaskNotFound:
            self._store.purge(mine.ref)  # an answer that was kept after its task was deleted
            return False
        except StateConflict:  # other writers keep changing the task
            return False
