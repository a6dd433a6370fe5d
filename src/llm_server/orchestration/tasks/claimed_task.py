"""The state of a task during a claim. Each stored state says which engine calls are pending (ADR 31)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import OutOfTime, StorageUnavailable, TaskCancelled, TaskLost
from llm_server.orchestration.domain.output import TRIAGE, Output, OutputKind
from llm_server.orchestration.domain.ports.clock import Clock
from llm_server.orchestration.domain.ports.tasks import TaskStore
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.task import Task
from llm_server.orchestration.domain.triage import PURPOSE
from llm_server.orchestration.events.text_stream import TextStream

MAX_FLUSHES = 3
"""How often the text is tried to be stored before a save goes on without it."""
SAVE_AGAIN_S = 0.1
MAX_SAVE_AGAIN_S = 5.0
"""The pauses between attempts to save a state grow from the first to the second value."""


_SHOWN = (OutputKind.DRAFT, OutputKind.STEP, OutputKind.ANSWER)
"""The outputs whose text is streamed."""


class ClaimedTask:
    """The owner of a claimed task's state. Any thread of the claim may save it; each save has the next revision.

    `task` is the state that was stored last. When a save is refused, because another writer has changed the task, the
    claim's calls are cancelled, and nothing is saved any more.
    """

    def __init__(
        self,
        task: Task,
        *,
        store: TaskStore,
        clock: Clock,
        sleep: Callable[[float], None],
        until_ms: int,
        cancellation: Cancellation,
        text: TextStream | None = None,
    ) -> None:
        """`text` is the stream of the claim's text; None if the task does not stream."""
        self.task = task
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._until_ms = until_ms
        self._cancellation = cancellation
        self._text = text
        self._lock = threading.Lock()
        self._is_lost = False
        self._begun = {attempt.purpose: [attempt.event_number] for attempt in task.pending}
        """The numbers of the events that began the calls of each purpose, until an output holds the calls."""

    def save(self, after: Task, output: Output | None, *, foreseen: tuple[Attempt, ...] = ()) -> None:
        """Store the next state with an output. Its pending calls are those that no output holds, and `foreseen`.

        Raises:
            TaskLost: another writer has changed the task, now or before.
            StorageUnavailable: the store did not answer until the claim ended.
        """
        with self._lock:
            keeps_worker = after.status.is_active and not after.awaits_approval
            if self._text and output and output.text is not None and output.key.kind in _SHOWN:
                self._text.complete(output.key.step, output.text)
            foreseen = self._numbered(foreseen)
            pending = (*_without(_not_held(self.task.pending, output), foreseen), *foreseen) if keeps_worker else ()
            self._save(replace(after, pending=pending), output)
            self._begun |= {attempt.purpose: [attempt.event_number] for attempt in foreseen}

    def with_numbers(self, output: Output) -> Output:
        """Return an output of this claim with the numbers of the events that began its calls. Call this once for it."""
        with self._lock:
            begun = {purpose: iter(self._begun.pop(purpose, ())) for purpose in {a.purpose for a in output.attempts}}
            attempts = (a.numbered(next(begun[a.purpose], a.event_number)) for a in output.attempts)
            return replace(output, attempts=tuple(attempts))

    def number_of_call(self, purpose: str) -> int:
        """Return the number of the event that began the last call of a purpose."""
        with self._lock:
            return self._begun[purpose][-1]

    def open_item(self, attempt: Attempt) -> Callable[[str], None]:
        """Begin the stream of the text of a call that was announced. The task must stream its text."""
        assert self._text is not None
        return self._text.open_item(self.number_of_call(attempt.purpose), attempt.step_id)

    def announce(self, calls: tuple[Attempt, ...]) -> None:
        """Store that the last one of `calls` is about to be made. Does nothing if the stored state says so already.

        Raises:
            TaskCancelled: another writer has changed the task.
            OutOfTime: the store did not answer until the claim ended.
        """
        with self._lock:
            if self._is_announced(calls):
                return
            call, number = calls[-1], event_numbers.number(self.task.rev + 1, event_numbers.CALL_BEGINS)
            begun = self._begun.get(call.purpose, [])[: sum(each.purpose == call.purpose for each in calls) - 1]
            calls = (*self._with_begun(calls[:-1]), call.numbered(number))
            try:
                pending = (*_without(self.task.pending, calls), *calls)
                self._save(replace(self.task, rev=self.task.rev + 1, pending=pending), None)
                self._begun[call.purpose] = [*begun, number]
            except TaskLost as lost:
                raise TaskCancelled from lost
            except StorageUnavailable as error:
                raise OutOfTime("The database did not answer, so the engine was not asked.") from error

    def _with_begun(self, calls: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        """Return calls that were announced before, with their numbers."""
        begun = {purpose: iter(self._begun.get(purpose, ())) for purpose in {call.purpose for call in calls}}
        return tuple(call.numbered(next(begun[call.purpose], call.event_number)) for call in calls)

    def _numbered(self, foreseen: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        """Return the calls that begin with the next save, with numbers. One that was foreseen before keeps its own."""
        known = {(a.purpose, a.engine): a.number for a in self.task.pending if a.is_lost}
        rev = self.task.rev + 1
        return tuple(
            replace(a, number=known[a.purpose, a.engine]) if (a.purpose, a.engine) in known else a
            for a in numbered_calls(foreseen, rev)
        )

    def _is_announced(self, calls: tuple[Attempt, ...]) -> bool:
        """Return whether the only call of its purpose is pending, with the same engine and enough money."""
        call = calls[-1]
        pending = [attempt for attempt in self.task.pending if attempt.purpose == call.purpose]
        if len(calls) > 1 or len(pending) != 1:
            return False
        (known,) = pending
        is_priced_alike = (known.cost_microusd is None) is (call.cost_microusd is None)
        return known.engine == call.engine and is_priced_alike and known.withheld_microusd >= call.withheld_microusd

    def _save(self, after: Task, output: Output | None) -> None:
        """Save a state; if the store does not answer, try again until the claim ends: its calls are paid for."""
        if self._is_lost:
            raise TaskLost(self.task.task_id)
        after = after.at_rev(self.task.rev + 1)
        output = output and output.at_rev(after.rev)
        if self._text:
            self._store_text(self._text)
        try:
            self._save_again_and_again(after, output)
        except BaseException:
            if self._text:
                self._text.close()
            raise
        self.task = after
        self._cancellation.mark_checked()
        if self._text:
            self._text.go_on(after.rev)

    def _store_text(self, text: TextStream) -> None:
        """Store the text before a save. Go on without it if the store fails to do so several times."""
        text.freeze()
        for _ in range(MAX_FLUSHES):
            if text.flush():
                return
            self._sleep(SAVE_AGAIN_S)
        text.give_up()

    def _save_again_and_again(self, after: Task, output: Output | None) -> None:
        pause_s = SAVE_AGAIN_S
        while True:
            try:
                self._store.save(self.task, after, output)
                break
            except TaskLost:
                self._is_lost = True
                self._cancellation.cancel()
                raise
            except StorageUnavailable:
                if self._clock() + pause_s * 1000 > self._until_ms:
                    raise
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_SAVE_AGAIN_S)


def numbered_calls(calls: tuple[Attempt, ...], rev: int) -> tuple[Attempt, ...]:
    """Return the calls that the save with a revision announces, with the numbers of the events that begin them."""
    places = range(event_numbers.CALL_BEGINS, event_numbers.OLD_WORK, 2)
    return tuple(a.numbered(event_numbers.number(rev, place)) for a, place in zip(calls, places, strict=False))


def _not_held(pending: tuple[Attempt, ...], output: Output | None) -> tuple[Attempt, ...]:
    """Return the pending calls that an output does not hold. Those of its step have ended, or were never made.

    So has the call for a triage, when the triage is stored.
    """
    if output is None:
        return pending
    step, left = output.key.step, _without(pending, output.attempts)
    if output.key == TRIAGE:
        return tuple(a for a in left if a.purpose != PURPOSE)
    return tuple(a for a in left if not step or a.step_id != step)


def _without(pending: Iterable[Attempt], others: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Return the pending calls without those of the same purposes as `others`, which replace them.

    Calls with the same purpose follow one another, and one output holds them all.
    """
    purposes = {attempt.purpose for attempt in others}
    return tuple(attempt for attempt in pending if attempt.purpose not in purposes)
