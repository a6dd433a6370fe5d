"""However many tasks wait, the first sweep after a lease or deadline ends handles it.

Checking a task takes 50 ms here, several times what the smallest function needs: a sweep has time for 900.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.ports.store import Store
from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.snapshot import Limits
from llm_server.orchestration.domain.status import Priority, Status
from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.orchestration.tasks.sweep import Sweep
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.store import DynamoStore
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.builders import NOW_MS, SWEEP_MS, a_failure, a_request, a_task
from support.scripted_engine import Clock, a_fleet, an_engine

WAITING = 5_000
LOOK_S = 0.05
REQUEST = a_request(limits=Limits(deadline_s=300))


class TableInMemory:
    """The DynamoDB calls that the sweep uses, in memory.

    No other writer exists here, so conditions are ignored; an emulator would take minutes.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.items: dict[tuple[str, str], dict[str, Any]] = {}

    def put(self, item: dict[str, Any]) -> None:
        self.items[item["pk"]["S"], item["sk"]["S"]] = item

    def query(self, *, ExpressionAttributeValues: dict[str, Any], **asked: Any) -> dict[str, Any]:
        if "IndexName" not in asked:
            pk = ExpressionAttributeValues[":pk"]
            return {"Items": [item for item in self.items.values() if item["pk"] == pk]}
        shard, now_ms = ExpressionAttributeValues[":open"], int(ExpressionAttributeValues[":now"]["N"])
        start = asked.get("ExclusiveStartKey")
        after = _place(start) if start else (-1, "")
        entries = [item for item in self.items.values() if item.get("open") == shard]
        due = sorted((i for i in entries if int(i["due"]["N"]) <= now_ms and _place(i) > after), key=_place)
        page = due[: asked["Limit"]]
        return {"Items": page} | ({"LastEvaluatedKey": dict(page[-1])} if len(due) > len(page) else {})

    def get_item(self, *, Key: dict[str, Any], **_: Any) -> dict[str, Any]:
        item = self.items.get((Key["pk"]["S"], Key["sk"]["S"]))
        return {"Item": item} if item else {}

    def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:
        found = (self.items.get((key["pk"]["S"], key["sk"]["S"])) for key in RequestItems["table"]["Keys"])
        return {"Responses": {"table": [item for item in found if item]}}

    def update_item(self, *, Key: dict[str, Any], ExpressionAttributeValues: dict[str, Any], **more: Any) -> None:
        if ":state" in ExpressionAttributeValues:
            self.put(Key | {more["ExpressionAttributeNames"]["#engine"]: ExpressionAttributeValues[":state"]})
            return
        self.clock.pass_s(LOOK_S)
        moved = {"open": ExpressionAttributeValues[":open"], "due": ExpressionAttributeValues[":next"]}
        self.items[Key["pk"]["S"], Key["sk"]["S"]] |= moved

    def transact_write_items(self, *, TransactItems: list[dict[str, Any]]) -> None:
        for write in TransactItems:
            if "Put" in write:
                self.put(write["Put"]["Item"])


def _place(item: dict[str, Any]) -> tuple[int, str]:
    return int(item["due"]["N"]), item["pk"]["S"]


class UnhurriedStore(SqliteStore):
    """Adds the duration of a check to the clock."""

    clock: Clock

    def postpone(self, due: Due, task: Task | None, due_ms: int) -> bool:
        self.clock.pass_s(LOOK_S)
        return super().postpone(due, task, due_ms)


class LongQueue:
    """A queue that holds a message for every task."""

    def __init__(self) -> None:
        self.sent: list[TaskRef] = []

    def send(self, ref: TaskRef, *, delay_s: int = 0, priority: Priority = Priority.INTERACTIVE) -> None:
        self.sent.append(ref)

    def depth(self) -> int:
        return WAITING + 1 + len(self.sent)


@contextmanager
def in_memory(folder: Path, clock: Clock, tasks: list[Task]) -> Iterator[Store]:
    table = TableInMemory(clock)
    store = DynamoStore(cast("Any", table), "table", draw=lambda n: 0)
    for task in tasks:
        store._transact([store._put_state(task, "")])
        table.put(items.key(task.ref, "REQ") | {"body": {"S": records.encode(REQUEST)}})
    table.put({"pk": {"S": "CTR#0"}, "sk": {"S": "ALL"}, "queued": items.number(WAITING + 1)})
    yield store


@contextmanager
def on_disk(folder: Path, clock: Clock, tasks: list[Task]) -> Iterator[Store]:
    with closing(UnhurriedStore(Database(folder / "tasks.db"))) as store:
        store.clock = clock
        store._database._writer.connection.execute("PRAGMA synchronous = OFF")  # the speed of the disk is not tested
        for task in tasks:
            store.add(task, REQUEST)
        yield store


@pytest.mark.parametrize("filled", [in_memory, on_disk])
def test_an_ended_lease_and_a_deadline_do_not_wait_behind_a_long_queue(
    filled: Callable[..., Any], tmp_path: Path
) -> None:
    """The claim is older than the waiting tasks; its lease ends after 4.5 minutes, and the deadline passes after 5."""
    clock, queue = Clock(), LongQueue()
    deserted = a_task(created_ms=NOW_MS - 1).claimed(
        owner="w", now_ms=NOW_MS, lease_ms=NOW_MS + 270_000, has_plan=False
    )
    dated = a_task(deadline_ms=NOW_MS + 300_000)
    tasks = [*(a_task() for _ in range(WAITING)), deserted, dated]
    ends = []
    with filled(tmp_path, clock, tasks) as store:
        sweep = Sweep(store=store, wakeups=WakeUps(queue), fleet=a_fleet(store, clock), clock=clock, sweep_ms=SWEEP_MS)
        for minute in range(1, 6):
            clock.now_ms = NOW_MS + minute * 60_000
            sweep.run()
            ends.append((list(queue.sent), store.get(dated.ref).task.status))
        backlog = sum(1 for _ in store.due(clock()))

    assert ends[3] == ([], Status.QUEUED)
    assert ends[4] == ([deserted.ref], Status.FAILED)
    assert backlog > 1_000, "what merely waits is still being looked at"


@pytest.mark.parametrize("filled", [in_memory, on_disk])
def test_tasks_whose_engine_is_back_are_found_however_many_wait(filled: Callable[..., Any], tmp_path: Path) -> None:
    """Each sweep wakes 300 of them in 15 s, behind others that have their messages, and 600 in the time that is left.

    In between, a lease that has ended is seen.
    """
    clock, queue = Clock(), LongQueue()
    waiting = [_waits(a_task(created_ms=NOW_MS + n), delay_s=300) for n in range(1_000)]
    queued = [a_task(due_ms=NOW_MS + 400_000) for _ in range(500)]
    deserted = a_task(due_ms=NOW_MS + 30_000).claimed(
        owner="w", now_ms=NOW_MS, lease_ms=NOW_MS + 30_000, has_plan=False
    )
    with filled(tmp_path, clock, [*queued, *waiting, deserted]) as store:
        store.save_engine_state("only", EngineState(recovered_ms=NOW_MS + 50_000))
        sweep = Sweep(
            store=store,
            wakeups=WakeUps(queue),
            fleet=a_fleet(store, clock, only=an_engine()),
            clock=clock,
            sweep_ms=SWEEP_MS,
        )
        sent, first_sent = [], list[TaskRef]()
        for minute in range(1, 4):
            clock.now_ms = NOW_MS + minute * 60_000
            sweep.run()
            sent.append(len(queue.sent))
            first_sent = first_sent or list(queue.sent)

    assert sent == [900, 1_001, 1_001]
    assert first_sent.index(deserted.ref) == 300
    assert set(queue.sent) == {task.ref for task in [*waiting, deserted]}


def _waits(task: Task, *, delay_s: int) -> Task:
    """Return the task as a worker put it off, because its engine rested."""
    claimed = task.claimed(owner="w", now_ms=NOW_MS, lease_ms=NOW_MS + 60_000, has_plan=False)
    release = a_failure(error=None, created_ms=NOW_MS, attempts=())
    return claimed.released(release, due_ms=NOW_MS + delay_s * 1_000 + SWEEP_MS, counted=False, waiting_for="only")


def test_a_sweep_goes_on_until_nothing_is_due(tmp_path: Path) -> None:
    """It reads page after page and checks each task once."""
    clock = Clock()
    with in_memory(tmp_path, clock, [a_task() for _ in range(850)]) as store:
        clock.pass_s(SWEEP_MS / 1000)
        Sweep(
            store=store, wakeups=WakeUps(LongQueue()), fleet=a_fleet(store, clock), clock=clock, sweep_ms=SWEEP_MS
        ).run()

        assert clock.now_ms == NOW_MS + SWEEP_MS + 850 * LOOK_S * 1000
        assert list(store.due(clock())) == []


def test_a_sweep_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """As when the server shuts down; tasks not checked yet stay due."""
    clock, looks = Clock(NOW_MS + SWEEP_MS), iter([True] * 30)
    with in_memory(tmp_path, clock, [a_task() for _ in range(200)]) as store:
        sweep = Sweep(
            store=store, wakeups=WakeUps(LongQueue()), fleet=a_fleet(store, clock), clock=clock, sweep_ms=SWEEP_MS
        )
        sweep.run(lambda: next(looks, False))

        assert len(list(store.due(clock()))) == 170
