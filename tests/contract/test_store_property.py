"""Whatever happens to some tasks, in whatever order: the counters say what the tasks and their calls say."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Literal, get_args

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from llm_server.orchestration.domain.counters import day_of
from llm_server.orchestration.domain.errors import NotClaimable, StateConflict, TaskLost
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.sqlite.store import SqliteStore
from support.audit import audit
from support.builders import (
    LEASE_MS,
    NOW_MS,
    a_failed_attempt,
    a_lifecycle,
    a_request,
    a_task,
    an_attempt,
    claimed,
    output_key,
)

Act = Literal[
    "claim",
    "progress",
    "release",
    "answer",
    "finish",
    "fail",
    "outlive",
    "repeat",
    "add",
    "postpone",
    "cancel",
    "retry",
]
ACTS: tuple[Act, ...] = ("claim", "claim", "claim", "outlive", "progress", *get_args(Act))
Move = tuple[Act, int, bool, tuple[Attempt, ...]]
"""What is done to which task, by its last worker or by its first one, with which calls."""

TASKS = 3
_tenants = count(1)

attempts = st.one_of(
    st.builds(
        an_attempt,
        source=st.sampled_from(["api", "local"]),
        tokens_in=st.integers(0, 2_000),
        tokens_out=st.integers(0, 2_000),
        duration_ms=st.integers(0, 90_000),
        cost_microusd=st.one_of(st.none(), st.integers(0, 10**9)),
        started_ms=st.integers(NOW_MS, NOW_MS + LEASE_MS),
    ),
    st.builds(a_failed_attempt, started_ms=st.integers(NOW_MS, NOW_MS + LEASE_MS)),
)
moves = st.lists(
    st.tuples(
        st.sampled_from(ACTS),
        st.integers(0, TASKS - 1),
        st.booleans(),
        st.lists(attempts, max_size=3).map(tuple),
    ),
    min_size=10,
    max_size=40,
)


class Drill:
    """Some tasks and all workers that ever had one, each with the state that it read last."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.before = store.overview()[0]
        self.now_ms = NOW_MS
        self.tenant = f"drill-{next(_tenants)}"
        self.tasks = [a_task(tenant=self.tenant, mode=Mode.PLAN) for _ in range(TASKS)]
        self.workers: list[list[Task]] = [[] for _ in self.tasks]
        self.last: tuple[Task, Task, Output | None] | None = None
        for task in self.tasks:
            store.add(task, a_request())

    def play(self, move: Move) -> None:
        act, n, late, calls = move
        if act == "claim":
            self._claim(n)
        elif act == "outlive":
            self.now_ms += LEASE_MS
        elif act == "add":
            self.store.add(self.tasks[n], a_request("Again."))
        elif act == "postpone":
            task = self.store.peek(self.tasks[n].ref)
            self.store.postpone(Due(task.ref, self.tasks[n].due_ms), task, self.now_ms + 1)
        elif act == "cancel":
            with suppress(StateConflict):
                a_lifecycle(self.store, lambda: self.now_ms).cancel(self.tasks[n].ref)
        elif act == "retry":
            with suppress(StateConflict):
                a_lifecycle(self.store, lambda: self.now_ms).retry(self.tasks[n].ref)
        elif act == "repeat" and self.last:
            self._save(*self.last)
        elif self.workers[n]:
            self._work(act, n, 0 if late else -1, calls)

    def check(self) -> None:
        refs = [task.ref for task in self.tasks]
        audit(self.store, refs, before=self.before)
        spent = sum(self.store.peek(ref).receipt.cost_microusd for ref in refs)
        assert self.store.spent_microusd(self.tenant, day_of(NOW_MS)) == spent

    def _claim(self, n: int) -> None:
        """As the service does it: what a dead worker paid for is adopted."""
        snapshot = self.store.get(self.tasks[n].ref)
        try:
            task = claimed(snapshot.task, now_ms=self.now_ms, has_plan=output_key("PLAN") in snapshot.outputs)
        except NotClaimable:
            return
        assert self._save(snapshot.task, task, None)
        if snapshot.orphan:
            assert self._save(task, task.completed(snapshot.orphan), None)
        else:
            self.workers[n].append(task)

    def _work(self, act: Act, n: int, which: int, calls: tuple[Attempt, ...]) -> None:
        task = self.workers[n].pop(which)
        after, output = self._next(act, task, calls)
        if output.is_answer:
            self.store.keep(task.ref, output)
        if act == "answer":
            return  # and then he died
        stored = None if output.is_answer else output
        if not self._save(task, after, stored):
            self._settle(task, calls)
        elif after.status.is_active:
            self.workers[n].append(after)

    def _settle(self, mine: Task, calls: tuple[Attempt, ...]) -> None:
        """As a worker does that finds its task Cancelled."""
        snapshot = self.store.get(mine.ref)
        output = Output(key=output_key(f"TRY#{mine.fence}"), created_ms=self.now_ms, attempts=calls)
        if snapshot.task.status is Status.CANCELLED and output.key not in snapshot.outputs:
            assert self._save(snapshot.task, snapshot.task.settled(output), output)

    def _next(self, act: Act, task: Task, calls: tuple[Attempt, ...]) -> tuple[Task, Output]:
        def output(key: str, error: str | None = None) -> Output:
            text = None if error else "Done."
            return Output(key=output_key(key), created_ms=self.now_ms, text=text, error=error, attempts=calls)

        if act == "progress":
            step = output("PLAN" if task.status == "Processing" else f"STEP#{task.rev}")
            return task.progressed(step), step
        if act == "release":
            pause = output(f"TRY#{task.fence}")
            return task.released(pause, due_ms=self.now_ms), pause
        if act == "fail":
            failure = output(f"TRY#{task.fence}", "No engine answered.")
            return task.failed(failure), failure
        answer = output(f"RES#{task.fence}")
        return task.completed(answer), answer

    def _save(self, before: Task, after: Task, output: Output | None) -> bool:
        """Whether it was taken, which must be so just when the store holds `before`, or `after` already."""
        may = self.store.peek(before.ref) in (before, after)
        self.last = before, after, output
        try:
            self.store.save(before, after, output)
        except TaskLost:
            assert not may
            return False
        assert may
        return True


def played(store: Store, sequence: list[Move]) -> None:
    note(f"{sequence}")
    drill = Drill(store)
    for move in sequence:
        drill.play(move)
        drill.check()


several = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(several, max_examples=4, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes minutes


@settings(several, max_examples=100)
@given(sequence=moves)
def test_the_counters_of_the_embedded_store_never_drift(sqlite_store: SqliteStore, sequence: list[Move]) -> None:
    played(sqlite_store, sequence)


@pytest.mark.parametrize("emulator", ["moto", "ministack"])
@few
@given(sequence=moves)
def test_the_counters_of_the_store_on_aws_never_drift(
    request: pytest.FixtureRequest, emulator: str, sequence: list[Move]
) -> None:
    store: DynamoStore = request.getfixturevalue(f"{emulator}_store")

    played(store, sequence)
