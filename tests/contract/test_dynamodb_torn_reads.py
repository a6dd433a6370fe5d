"""A query is not isolated from transactions. A worker that claims a task by an inconsistent read pays nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.domain.task import Task
from llm_server.storage.dynamodb.store import MAX_READS, DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_failure, a_request, a_task, an_output, claimed, key_texts, noise, output_key


class PagedDynamo:
    """A client whose queries give one item a page; before the second page something happens, once."""

    def __init__(self, client: Any, meanwhile: Callable[[], None]) -> None:
        self._client = client
        self._meanwhile = meanwhile
        self._queries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, **asked: Any) -> Any:
        self._queries += 1
        if self._queries == 2:
            self._meanwhile()
        return self._client.query(**asked, Limit=1)


class LateDynamo:
    """A client whose first queries do not show an item yet, as while its transaction is carried out."""

    def __init__(self, client: Any, hidden: str, *, times: int) -> None:
        self._client = client
        self._hidden = hidden
        self._times = times
        self.queries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, **asked: Any) -> Any:
        self.queries += 1
        answer = self._client.query(**asked)
        if self.queries <= self._times:
            answer["Items"] = [row for row in answer["Items"] if row["sk"]["S"] != self._hidden]
        return answer


def over(client: PagedDynamo | LateDynamo | Any, table: str) -> DynamoStore:
    return DynamoStore(cast("Any", client), table, draw=lambda n: 0)


def planned(store: DynamoStore) -> Task:
    """A plan that a worker carries out."""
    task, plan = a_task(mode=Mode.PLAN), an_output("PLAN", "{}")
    store.add(task, a_request())
    store.save(task, claimed(task))
    store.save(claimed(task), claimed(task).progressed(plan), plan)
    return claimed(task).progressed(plan)


def progressed(store: DynamoStore, before: Task, output: Output) -> Task:
    after = before.progressed(output)
    store.save(before, after, output)
    return after


def test_what_is_stored_while_a_task_is_read_is_in_the_snapshot_that_a_claim_goes_by(aws_substrate: Substrate) -> None:
    """A draft sorts before its state: its page was read, then it was stored, and the task handed back to the queue."""
    quiet = over(aws_substrate.dynamodb, aws_substrate.table)
    task, draft, end = planned(quiet), an_output("DRAFT#b#0", "A draft."), a_failure("TRY#1", None)

    def store_and_release() -> None:
        after = progressed(quiet, task, draft)
        quiet.save(after, after.released(end, due_ms=NOW_MS), end)

    paged = over(PagedDynamo(aws_substrate.dynamodb, store_and_release), aws_substrate.table)

    snapshot = paged.get(task.ref)

    paged.save(snapshot.task, claimed(snapshot.task, owner="w2", has_plan=True))
    assert snapshot.task.status is Status.QUEUED
    assert key_texts(snapshot.outputs) == ["DRAFT#b#0", "PLAN", "TRY#1"]


@pytest.mark.parametrize("key", ["PLAN", "DRAFT#b#0", "VERDICT#b#0", "STEP#b"])
def test_an_output_whose_transaction_is_being_carried_out_is_waited_for(aws_substrate: Substrate, key: str) -> None:
    """Its state is there already, whichever of the two sorts first; one page shows that as well as several."""
    quiet = over(aws_substrate.dynamodb, aws_substrate.table)
    task = planned(quiet)
    for other in ("DRAFT#b#0", "VERDICT#b#0", "STEP#b"):
        task = progressed(quiet, task, an_output(other))
    late = LateDynamo(aws_substrate.dynamodb, key, times=3)

    snapshot = over(late, aws_substrate.table).get(task.ref)

    assert output_key(key) in snapshot.outputs
    assert late.queries == 4


def test_an_answer_that_is_not_shown_yet_is_waited_for(aws_substrate: Substrate) -> None:
    """Also one that took no engine call."""
    quiet = over(aws_substrate.dynamodb, aws_substrate.table)
    task, answer = planned(quiet), an_output(attempts=())
    quiet.keep(task.ref, answer)
    quiet.save(task, task.completed(answer))

    late = LateDynamo(aws_substrate.dynamodb, "RES#1", times=1)

    assert over(late, aws_substrate.table).get(task.ref).result == "Hello."


def test_an_output_that_is_lost_takes_no_more_with_it(aws_substrate: Substrate) -> None:
    """The task can be read, cancelled and done again; that it is lost is known soon."""
    quiet = over(aws_substrate.dynamodb, aws_substrate.table)
    task = planned(quiet)
    lost = LateDynamo(aws_substrate.dynamodb, "PLAN", times=1_000)

    snapshot = over(lost, aws_substrate.table).get(task.ref)

    assert (snapshot.task, snapshot.outputs) == (task, {})
    assert lost.queries == MAX_READS == 6


@pytest.mark.parametrize("lost", ["REQ", "RES#1"])
def test_a_turn_of_which_a_part_is_lost_is_no_turn(moto_substrate: Substrate, lost: str) -> None:
    """A later task is told no half of a prompt or of an answer."""
    store = over(moto_substrate.dynamodb, moto_substrate.table)
    task, answer = a_task(), an_output(text=noise(900_000))
    store.add(task, a_request(noise(900_000, seed=1)))
    store.save(task, claimed(task))
    store.save(claimed(task), claimed(task).completed(answer), answer)
    assert [turn is None for turn in store.turns([task.ref])] == [False]
    answer_rows = moto_substrate.dynamodb.query(
        TableName=moto_substrate.table,
        KeyConditionExpression="pk = :pk AND begins_with(sk, :part)",
        ExpressionAttributeValues={":pk": {"S": f"T#local#{task.task_id}"}, ":part": {"S": f"{lost}~"}},
    )["Items"]
    last = {name: answer_rows[-1][name] for name in ("pk", "sk")}
    moto_substrate.dynamodb.delete_item(TableName=moto_substrate.table, Key=last)

    assert list(store.turns([task.ref])) == [None]
