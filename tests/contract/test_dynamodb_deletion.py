"""How a deletion and an expiry look on DynamoDB: what is left when they are broken off, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskNotFound
from llm_server.orchestration.domain.retention import DELETED_KEPT_MS, SLACK_MS, Retention
from llm_server.orchestration.domain.snapshot import EXPIRED_REQUEST, Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.orchestration.tasks.sweep import Sweep
from llm_server.orchestration.tasks.wakeups import WakeUps
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, NoQueue, a_failure, a_lifecycle, a_request, a_task, an_output, claimed, noise
from support.dynamodb_wire import Wire, recording
from support.scripted_engine import Clock, a_fleet

LONG = noise(900_000)
KEEP_MS = 30 * DAY_MS


@pytest.fixture
def store(moto_substrate: Substrate, clock: Clock) -> DynamoStore:
    retention = Retention(clock=clock, keep_ms=KEEP_MS)
    return DynamoStore(moto_substrate.dynamodb, moto_substrate.table, draw=lambda n: 0, retention=retention)


def ended(store: DynamoStore) -> Task:
    """A Completed plan: request, plan, answer and the parts of two long texts."""
    task, plan, answer = a_task(mode=Mode.PLAN), an_output("PLAN", "{}"), an_output(text=LONG)
    store.add(task, a_request(LONG))
    processing = claimed(task)
    store.save(task, processing)
    store.save(processing, processing.progressed(plan), plan)
    store.keep(task.ref, answer)
    completed = processing.progressed(plan).completed(answer)
    store.save(processing.progressed(plan), completed)
    return completed


def rows(on: Substrate, task: Task) -> dict[str, Any]:
    """What the table holds of a task, by sort key."""
    pages = on.dynamodb.get_paginator("query").paginate(
        TableName=on.table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": f"T#local#{task.task_id}"}},
    )
    return {row["sk"]["S"]: row for page in pages for row in page["Items"]}


def swept(store: DynamoStore, clock: Clock) -> None:
    Sweep(store=store, wakeups=WakeUps(NoQueue()), fleet=a_fleet(store, clock), clock=clock, sweep_ms=120_000).run()


def test_nothing_but_a_gravestone_is_left_and_that_not_for_long(moto_substrate: Substrate, store: DynamoStore) -> None:
    task = ended(store)
    assert len(rows(moto_substrate, task)) == 4 + 2 * 2

    store.delete(task)

    left = rows(moto_substrate, task)
    assert left["STATE"].keys() == {"pk", "sk", "ttl"}
    assert left["STATE"]["ttl"] == {"N": str((NOW_MS + DELETED_KEPT_MS) // 1000)}
    assert len(left) == 1


@pytest.mark.parametrize("call", range(10))
@pytest.mark.parametrize("is_carried_out", [False, True])
def test_a_deletion_that_breaks_off_leaves_nothing_to_see_and_is_finished(
    moto_substrate: Substrate, store: DynamoStore, wire: Wire, clock: Clock, call: int, is_carried_out: bool
) -> None:
    """At each of its calls: the gravestone, the query, seven texts, the farewell; before it, or with its reply lost."""
    task = ended(store)
    operation, number = [("PutItem", 0), ("Query", 0), *(("DeleteItem", n) for n in range(7)), ("UpdateItem", 0)][call]
    wire.calls.clear()
    break_off(wire, operation, number, is_carried_out=is_carried_out)
    with pytest.raises(StorageUnavailable):
        store.delete(task)

    if call == 0 and not is_carried_out:
        assert store.get(task.ref) == Snapshot(task=task, request=a_request(LONG), outputs=store.get(task.ref).outputs)
        return
    with pytest.raises(TaskNotFound):
        store.get(task.ref)
    assert store.page("local", size=9).tasks == []
    clock.pass_s(60)
    swept(store, clock)

    assert rows(moto_substrate, task).keys() == {"STATE"}
    assert list(store.due(clock.now_ms + 10**12)) == []


def break_off(wire: Wire, operation: str, number: int, *, is_carried_out: bool) -> None:
    """Let the first `number` calls pass and the next one fail, or carry it out and lose its reply."""
    if is_carried_out:
        wire.lose_reply(operation, after=number)
    else:
        wire.refuse(operation, "InternalServerError", after=number)


def test_the_time_to_live_of_a_tasks_items(moto_substrate: Substrate, store: DynamoStore) -> None:
    """The state's is exact; the texts were written before the end was known, and never go first."""
    task = ended(store)

    left = rows(moto_substrate, task)
    ttls = {sk: int(row["ttl"]["N"]) for sk, row in left.items()}
    assert task.finished_ms is not None
    state = ttls.pop("STATE")
    assert state == (task.finished_ms + KEEP_MS) // 1000
    assert set(ttls.values()) == {(ms + SLACK_MS + KEEP_MS) // 1000 for ms in (NOW_MS, NOW_MS + 2_000)}
    assert min(ttls.values()) > state


def test_a_conversation_goes_with_the_texts_of_its_last_task(moto_substrate: Substrate, store: DynamoStore) -> None:
    """Each task that it gets keeps it longer."""
    begun, task = Conversation(tenant="local", conversation_id="c1", created_ms=NOW_MS, updated_ms=NOW_MS), a_task()
    store.add_conversation(begun)
    first = of_conversation(moto_substrate)
    store.add(task, a_request(), conversation=begun.with_task(task.task_id, now_ms=NOW_MS + 60_000))
    second = of_conversation(moto_substrate)

    ttls = [(ms + SLACK_MS + KEEP_MS) // 1000 for ms in (NOW_MS, NOW_MS + 60_000)]
    assert [int(row["ttl"]["N"]) for row in (first, second)] == ttls


def of_conversation(on: Substrate) -> dict[str, Any]:
    key = {"pk": {"S": "CONV#local#c1"}, "sk": {"S": "CONV"}}
    return dict(on.dynamodb.get_item(TableName=on.table, Key=key)["Item"])


def test_what_is_kept_for_ever_has_no_time_to_live(moto_substrate: Substrate, moto_store: DynamoStore) -> None:
    task = ended(moto_store)
    begun = Conversation(tenant="local", conversation_id="c1", created_ms=NOW_MS, updated_ms=NOW_MS)
    moto_store.add_conversation(begun)

    kept = [*rows(moto_substrate, task).values(), of_conversation(moto_substrate)]
    assert not any("ttl" in row for row in kept)


def test_a_request_whose_task_was_never_stored_does_not_stay(
    moto_substrate: Substrate, store: DynamoStore, wire: Wire
) -> None:
    task = a_task()
    wire.refuse("TransactWriteItems", "InternalServerError")
    with pytest.raises(StorageUnavailable):
        store.add(task, a_request())

    assert {sk: "ttl" in row for sk, row in rows(moto_substrate, task).items()} == {"REQ": True}


def test_the_texts_of_a_task_that_stays_open_never_go_first(
    moto_substrate: Substrate, store: DynamoStore, clock: Clock
) -> None:
    """A sweep a day sees to it: whenever the task ends, they outlast it. While it is young that costs nothing."""
    task = a_task()
    store.add(task, a_request(LONG))
    with recording(moto_substrate.dynamodb) as wire:
        for _ in range(4):
            clock.pass_s(DAY_MS / 1000)
            swept(store, clock)
        # each time it looks, reads the gauges and moves the due time on
        assert (wire.operations["BatchGetItem"], wire.operations["UpdateItem"]) == (8, 4)
    for _ in range(60):
        clock.pass_s(DAY_MS / 1000)
        swept(store, clock)
        texts = [row for sk, row in rows(moto_substrate, task).items() if sk != "STATE"]
        assert len(texts) == 3
        assert min(int(row["ttl"]["N"]) for row in texts) * 1000 >= clock.now_ms + KEEP_MS


def without_request(on: Substrate, task: Task) -> None:
    """Remove the last item of a task's request, as its time to live does: an item by itself."""
    last = max(sk for sk in rows(on, task) if sk.startswith("REQ"))
    on.dynamodb.delete_item(TableName=on.table, Key={"pk": {"S": f"T#local#{task.task_id}"}, "sk": {"S": last}})


@pytest.mark.parametrize("prompt", ["Why?", LONG])
def test_a_task_whose_request_has_expired_is_read_without_it(
    moto_substrate: Substrate, store: DynamoStore, prompt: str
) -> None:
    """What it gave is shown all the same, and whatever else is done with a task can be done."""
    task, answer = a_task(), an_output()
    store.add(task, a_request(prompt))
    store.save(task, claimed(task))
    store.keep(task.ref, answer)
    store.save(claimed(task), claimed(task).completed(answer))
    whole = store.get(task.ref)

    without_request(moto_substrate, task)

    assert store.get(task.ref) == replace(whole, request=EXPIRED_REQUEST)


def test_a_deadline_is_kept_also_without_the_request(
    moto_substrate: Substrate, store: DynamoStore, clock: Clock
) -> None:
    """The state knows when it comes, though no longer how it was said."""
    task = a_task(deadline_ms=NOW_MS + 1_000)
    store.add(task, a_request(limits=Limits(deadline_s=1)))
    without_request(moto_substrate, task)
    clock.pass_s(1)

    swept(store, clock)

    assert (store.peek(task.ref).status, store.peek(task.ref).error) == (Status.FAILED, "The deadline has passed.")


def test_a_tasks_end_and_its_deletion_in_calls(store: DynamoStore, wire: Wire) -> None:
    """A Chat task has a request and an answer: five calls."""
    task, answer = a_task(), an_output()
    store.add(task, a_request())
    store.save(task, claimed(task))
    store.keep(task.ref, answer)
    store.save(claimed(task), claimed(task).completed(answer))
    wire.calls.clear()

    store.delete(claimed(task).completed(answer))

    assert [call.operation for call in wire.calls] == ["PutItem", "Query", "DeleteItem", "DeleteItem", "UpdateItem"]


def test_the_texts_of_a_retried_task_stay_as_those_of_a_new_one(
    moto_substrate: Substrate, store: DynamoStore, clock: Clock
) -> None:
    """They may have been about to go."""
    task, failure = a_task(), a_failure()
    store.add(task, a_request())
    store.save(task, claimed(task))
    store.save(claimed(task), claimed(task).failed(failure), failure)
    clock.now_ms += 29 * DAY_MS

    a_lifecycle(store, clock).retry(task.ref)

    left = rows(moto_substrate, task)
    assert "ttl" not in left.pop("STATE")
    assert {int(row["ttl"]["N"]) * 1000 for row in left.values()} == {clock.now_ms + SLACK_MS + KEEP_MS}


def test_a_task_that_is_added_after_its_deletion_leaves_nothing(moto_substrate: Substrate, store: DynamoStore) -> None:
    """Its request is written before the store knows that the task was deleted."""
    task = a_task()
    store.add(task, a_request())
    a_lifecycle(store, lambda: NOW_MS).delete(task.ref)

    store.add(task, a_request())

    assert rows(moto_substrate, task).keys() == {"STATE"}
