"""Puts on a cancelled task's receipt what its worker paid (ADR 11)."""

from __future__ import annotations

import logging
from dataclasses import replace

from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import Output, OutputKey
from llm_server.orchestration.domain.ports import Clock, Store
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.tasks.wakeups import log_fields

_log = logging.getLogger(__name__)

TRIES = 3


class Settlement:
    """The last write for a cancelled task. Its key names the claim, so that two workers settle one claim once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def settle(self, mine: Task, attempts: tuple[Attempt, ...]) -> None:
        """Put down what the claim `mine` paid and did not save; a task that was lost otherwise is not ours.

        Raises:
            StorageUnavailable: wake up again; an answer that was kept is then settled by whoever comes.
        """
        output = Output(key=OutputKey.of_try(mine.fence), created_ms=self._clock(), attempts=attempts)
        for left in reversed(range(TRIES)):
            try:
                if self._settled(mine, output):
                    return
                break
            except TaskLost:
                continue
            except StorageUnavailable:
                if not left:
                    raise
        _log.warning("task lost to another worker", extra=log_fields(mine))

    def _settled(self, mine: Task, output: Output) -> bool:
        """Try once; False where there is nothing to settle. Raises TaskLost."""
        try:
            snapshot = self._store.get(mine.ref)
        except TaskNotFound:
            self._store.purge(mine.ref)  # an answer that was kept after its task was deleted
            return False
        if snapshot.task.status is not Status.CANCELLED:
            return False
        if output.key in snapshot.outputs:  # who cancelled it, or came after us, found our answer and put it down
            output = replace(output, attempts=())
        self._store.save(snapshot.task, snapshot.task.settled(output), output if output.attempts else None)
        _log.info("work on a cancelled task ended", extra=log_fields(snapshot.task))
        return True
