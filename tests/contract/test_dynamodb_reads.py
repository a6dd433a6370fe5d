"""How the DynamoDB store reads what one answer does not hold: pages, unprocessed keys, changes in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from zlib import crc32

import pytest

from llm_server.orchestration.domain.conversation import Conversation
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.listing import Page, TaskFilter
from llm_server.orchestration.domain.snapshot import Snapshot
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import Task
from llm_server.storage.dynamodb.items import OPEN_SHARDS, in_open, state
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_request, a_task, an_output, by_key, claimed, key_texts, noise, prose
from support.dynamodb_wire import Wire

KINDS = [("DRAFT", "#0"), ("VERDICT", "#0"), ("DRAFT", "#1"), ("STEP", "")]


class StingyDynamo:
    """A client whose batch reads answer at most `most` of the keys they were asked for, and leave the others."""

    def __init__(self, client: Any, *, most: int) -> None:
        self._client = client
        self.most = most
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> Any:
        ((table, wanted),) = RequestItems.items()
        keys = wanted["Keys"]
        self.asked.append(len(keys))
        answer: dict[str, Any] = {"Responses": {}}
        if self.most:
            answer = self._client.batch_get_item(RequestItems={table: {"Keys": keys[: self.most]}})
        left = keys[self.most :]
        return answer | {"UnprocessedKeys": {table: {"Keys": left}} if left else {}}


@pytest.fixture
def stingy(moto_substrate: Substrate) -> StingyDynamo:
    return StingyDynamo(moto_substrate.dynamodb, most=7)


def over(client: StingyDynamo, table: str) -> DynamoStore:
    return DynamoStore(cast("Any", client), table, draw=lambda n: 0)


def fill(on: Substrate, *tasks: Task) -> None:
    """Put states into the table, without requests and counters."""
    for start in range(0, len(tasks), 25):
        puts: list[Any] = [{"PutRequest": {"Item": state(task)}} for task in tasks[start : start + 25]]
        on.dynamodb.batch_write_item(RequestItems={on.table: puts})


def carried_out(store: DynamoStore, prompt: str, answer: str) -> Task:
    """A Chat task that is Completed."""
    task, output = a_task(), an_output(text=answer)
    processing = claimed(task)
    store.add(task, a_request(prompt))
    store.save(task, processing)
    store.keep(task.ref, output)
    store.save(processing, processing.completed(output))
    return task


@pytest.mark.parametrize(("prompt_bytes", "answer_bytes"), [(500, 1_500), (2_000, 4_000)])
def test_a_task_is_read_for_one_read_unit(
    moto_store: DynamoStore, wire: Wire, prompt_bytes: int, answer_bytes: int
) -> None:
    """In people's words, with its prompt and its answer; that is a GET, and all that a worker reads of a Chat task."""
    ref = carried_out(moto_store, prose(prompt_bytes)[0], prose(answer_bytes)[0]).ref
    wire.calls.clear()

    moto_store.get(ref)

    assert wire.read_units() == 1


def test_what_may_be_stale_is_read_for_half(moto_store: DynamoStore, wire: Wire) -> None:
    """Metrics, a page and the sweep's search; 16 shards and the engines, 4 and 8 shards of what is open."""
    for _ in range(10):
        carried_out(moto_store, prose(500)[0], prose(1_500)[0])
    costs = []
    for read in (
        moto_store.overview,
        lambda: moto_store.page("local", size=10),
        lambda: list(moto_store.due(NOW_MS)),
    ):
        wire.calls.clear()
        read()
        costs.append(wire.read_units())

    assert costs == [17 / 2, 1 / 2 + 10 / 2, 12 / 2]


def test_what_is_due_of_one_shard_is_read_to_its_end(moto_substrate: Substrate, moto_store: DynamoStore) -> None:
    """A query answers a hundred; all of these are in the same shard, and due at the same moment."""
    names = [name for name in map(str, range(3_000)) if crc32(name.encode()) % OPEN_SHARDS == 0][:250]
    for name in names:
        item = state(task := a_task(name)) | in_open(name, task.due_ms)
        moto_substrate.dynamodb.put_item(TableName=moto_substrate.table, Item=item)

    assert sorted(due.ref.task_id for due in moto_store.due(NOW_MS * 2)) == sorted(names)


def test_of_what_is_due_only_so_much_is_read_as_is_taken(moto_store: DynamoStore, wire: Wire) -> None:
    for _ in range(3):
        moto_store.add(a_task(deadline_ms=NOW_MS + 1), a_request())
    wire.calls.clear()

    next(moto_store.due(NOW_MS * 2))

    assert wire.operations == {"Query": 4}


def test_what_must_not_be_stale_never_is(moto_store: DynamoStore, wire: Wire) -> None:
    """A task is there once it was accepted; a worker claims what was last written, and a switch works in 5 s.

    A conversation that was just created can be used.
    """
    task = carried_out(moto_store, "Why?", "Because.")
    moto_store.add_conversation(
        Conversation(tenant="local", conversation_id="c1", created_ms=NOW_MS, updated_ms=NOW_MS)
    )
    wire.calls.clear()
    moto_store.get(task.ref)
    moto_store.peek(task.ref)
    moto_store.peek_each([task.ref])
    moto_store.engines()
    moto_store.spent_microusd("local", "2025-10-09")
    moto_store.conversation("local", "c1")

    together = next(iter(wire.calls[2].arguments["RequestItems"].values()))
    singly = [call.arguments for call in wire.calls if call is not wire.calls[2]]
    assert [arguments.get("ConsistentRead") for arguments in (*singly, together)] == [True] * 6
    assert wire.read_units() == 6


def test_counters_that_were_not_read_at_once_are_asked_for_again(
    moto_substrate: Substrate, moto_store: DynamoStore, stingy: StingyDynamo
) -> None:
    for _ in range(20):
        moto_store.add(a_task(), a_request())
    moto_store.save_engine_state("gpt", EngineState(failures=1))

    counters, engines = over(stingy, moto_substrate.table).overview()

    assert counters == Counters(total=20, queued=20)
    assert engines.states == {"gpt": EngineState(failures=1)}
    assert stingy.asked == [17, 10, 3]


def test_tasks_that_were_not_read_at_once_are_listed_in_order(
    moto_substrate: Substrate, moto_store: DynamoStore, stingy: StingyDynamo
) -> None:
    for n in range(10):
        moto_store.add(a_task(f"t{n}", created_ms=NOW_MS + n), a_request())

    page = over(stingy, moto_substrate.table).page("local", size=10)

    assert [task.task_id for task in page.tasks] == [f"t{n}" for n in reversed(range(10))]


def test_a_batch_that_is_never_read_is_an_unavailable_store(moto_substrate: Substrate, stingy: StingyDynamo) -> None:
    stingy.most = 0

    with pytest.raises(StorageUnavailable):
        over(stingy, moto_substrate.table).overview()


def test_a_task_of_more_than_1_mb_is_read_page_by_page(moto_store: DynamoStore, wire: Wire) -> None:
    task, answer = a_task(), an_output(text=noise(3_000_000))
    moto_store.add(task, a_request(noise(200_000)))
    moto_store.keep(task.ref, answer)
    wire.calls.clear()

    snapshot = moto_store.get(task.ref)

    assert snapshot == Snapshot(task=task, request=a_request(noise(200_000)), outputs=by_key(answer))
    assert wire.operations["Query"] >= 3


def test_a_task_that_is_completed_while_it_is_read_has_its_answer(moto_store: DynamoStore, wire: Wire) -> None:
    """Where the answer would stand was read before there was one, the state after it was Completed."""
    task, answer = a_task(fence=9), an_output("RES#10")
    processing = claimed(task)
    moto_store.add(task, a_request())
    moto_store.save(task, processing)
    moto_store.keep(
        task.ref, an_output("RES#9", noise(1_500_000))
    )  # a zombie's, so long that reading takes a page more

    def complete() -> None:
        moto_store.keep(task.ref, answer)
        moto_store.save(processing, processing.completed(answer))

    wire.meanwhile("Query", complete, calls_later=1)

    snapshot = moto_store.get(task.ref)

    assert (snapshot.task.status, snapshot.result) == (Status.COMPLETED, "Hello.")


def test_a_filtered_list_looks_at_1000_tasks_a_call(
    moto_substrate: Substrate, moto_store: DynamoStore, wire: Wire
) -> None:
    """However many a tenant has: 11 queries of at most 2 units each, and half a unit for each state."""
    fill(moto_substrate, a_task("oldest", created_ms=NOW_MS - 1, role="Architect-Agent"))
    fill(moto_substrate, *(a_task(f"t{n:04}", created_ms=NOW_MS + n) for n in range(1_050)))
    wire.calls.clear()
    architects = TaskFilter(role="Architect-Agent")

    first = moto_store.page("local", size=1, task_filter=architects)

    assert (first.tasks, wire.operations) == ([], {"Query": 11, "BatchGetItem": 11})
    states = [call for call in wire.calls if call.operation == "BatchGetItem"]
    assert sum(call.read_units for call in states) == 1_000 / 2
    assert wire.read_units() <= 1_000 / 2 + 11 * 2
    second = moto_store.page("local", size=1, token=first.next_token, task_filter=architects)
    assert ([task.task_id for task in second.tasks], second.next_token) == (["oldest"], "")


def test_times_of_creation_bound_what_is_read(moto_substrate: Substrate, moto_store: DynamoStore, wire: Wire) -> None:
    """One of 100 tasks is read, and its neighbour's key, not what was created before or after."""
    fill(moto_substrate, *(a_task(f"t{n:02}", created_ms=NOW_MS + n) for n in range(100)))
    wire.calls.clear()

    page = moto_store.page(
        "local", size=1, task_filter=TaskFilter(created_from_ms=NOW_MS + 50, created_to_ms=NOW_MS + 51)
    )

    assert [task.task_id for task in page.tasks] == ["t50"]
    assert (wire.operations, wire.read_units()) == ({"Query": 1, "BatchGetItem": 1}, 1 / 2 + 1 / 2)


def test_a_quote_looks_at_two_hundred_tasks_at_the_most(
    moto_substrate: Substrate, moto_store: DynamoStore, wire: Wire
) -> None:
    """Whatever the filter lets pass: two queries of keys and two batches of states."""
    fill(moto_substrate, *(a_task(f"t{n:03}", created_ms=NOW_MS + n) for n in range(250)))
    wire.calls.clear()

    found = moto_store.newest("local", most=200, task_filter=TaskFilter(role="QA-Agent"))

    assert found == []
    assert wire.operations == {"Query": 2, "BatchGetItem": 2}
    assert sum(len(states.answer["Responses"][moto_substrate.table]) for states in wire.calls[1::2]) == 200
    assert wire.read_units() <= 2 * 2 + 200 / 2


def test_a_filter_that_no_task_can_pass_reads_nothing(moto_store: DynamoStore, wire: Wire) -> None:
    """A final task never waits for approval, and no moment is before itself."""
    moto_store.add(a_task(), a_request())
    wire.calls.clear()

    pages = [
        moto_store.page("local", size=9, task_filter=task_filter)
        for task_filter in (
            TaskFilter(statuses=frozenset({Status.FAILED}), awaiting_approval=True),
            TaskFilter(created_from_ms=NOW_MS, created_to_ms=NOW_MS),
        )
    ]

    assert pages == [Page([], "")] * 2
    assert wire.calls == []


def test_a_page_that_follows_reads_one_key_more(moto_substrate: Substrate, moto_store: DynamoStore, wire: Wire) -> None:
    """The token's own; of the states only those of the page, and one to know whether it is the last."""
    fill(moto_substrate, *(a_task(f"t{n:02}", created_ms=NOW_MS + n) for n in range(30)))
    token = moto_store.page("local", size=10).next_token
    wire.calls.clear()

    page = moto_store.page("local", size=10, token=token)

    assert [task.task_id for task in page.tasks] == [f"t{n:02}" for n in range(19, 9, -1)]
    assert (len(wire.calls[0].answer["Items"]), wire.read_units()) == (12, 1 / 2 + 11 / 2)


def test_a_token_whose_task_was_deleted_leads_on(moto_substrate: Substrate, moto_store: DynamoStore) -> None:
    """A full batch of states is read then, and no key too many."""
    fill(moto_substrate, *(a_task(f"t{n:03}", created_ms=NOW_MS + n) for n in range(210)))
    token = moto_store.page("local", size=9).next_token
    moto_substrate.dynamodb.delete_item(
        TableName=moto_substrate.table, Key={name: state(a_task("t201"))[name] for name in ("pk", "sk")}
    )

    page = moto_store.page("local", size=100, token=token)

    assert [task.task_id for task in page.tasks] == [f"t{n:03}" for n in range(200, 100, -1)]


def test_a_task_with_twelve_steps_is_read_by_one_query(moto_store: DynamoStore, wire: Wire) -> None:
    """Plan, drafts, verdicts and results stand in the task's own partition."""
    task, keys = a_task(), ["PLAN", *(f"{kind}#s{n}{turn}" for n in range(12) for kind, turn in KINDS)]
    moto_store.add(task, a_request())
    for key in keys:
        moto_store.keep(task.ref, an_output(key))
    wire.calls.clear()

    snapshot = moto_store.get(task.ref)

    assert key_texts(snapshot.outputs) == sorted(keys)
    assert wire.operations == {"Query": 1}
