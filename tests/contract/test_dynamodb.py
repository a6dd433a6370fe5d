"""What the DynamoDB store costs and how it bears DynamoDB's faults, seen on the wire."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Charge
from llm_server.orchestration.domain.counters import Counters
from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.errors import StorageUnavailable, TaskLost, TaskNotFound
from llm_server.orchestration.domain.output import Output
from llm_server.orchestration.domain.ports.tasks import Due, IdempotencyBinding
from llm_server.orchestration.domain.receipt import Attempt
from llm_server.orchestration.domain.retention import Retention
from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.domain.task import DAY_MS, MAX_NOTES, Task, TaskRef
from llm_server.storage.dynamodb.items import in_open, state
from llm_server.storage.dynamodb.store import DynamoStore
from support.audit import audit
from support.aws_emulators import Substrate
from support.builders import (
    LEASE_MS,
    NOW_MS,
    SWEEP_MS,
    a_request,
    a_task,
    an_attempt,
    an_output,
    by_key,
    claimed,
    noise,
    prose,
)
from support.dynamodb_wire import Wire, size

UUID = "01979f5e-7a3c-7b21-9c4d-5e6f708192a3"
CONFLICT = ("None", "TransactionConflict")


@pytest.fixture
def store(moto_substrate: Substrate) -> DynamoStore:
    """As it is deployed: what has ended is kept for 30 days."""
    retention = Retention(clock=lambda: NOW_MS, keep_ms=30 * DAY_MS)
    return DynamoStore(
        moto_substrate.dynamodb, moto_substrate.table, draw=random.Random(7).randrange, retention=retention
    )


def chat_task(store: DynamoStore, prompt: str, answer: Output, task: Task | None = None, **request: Any) -> Task:
    """A Chat task from its submission to its answer, as the service carries it out: its call is announced."""
    task = task or a_task(UUID)
    store.add(task, a_request(prompt, **request))
    snapshot = store.get(task.ref)
    processing = replace(claimed(snapshot.task, owner=UUID), pending=(a_pending_call(),))
    store.save(snapshot.task, processing)
    store.keep(task.ref, answer)
    completed = replace(processing.completed(answer), pending=())
    store.save(processing, completed)
    return completed


def a_pending_call(purpose: str = "answer") -> Attempt:
    """Return a call as the claim announces it."""
    attempt = an_attempt(engine="claude", model="claude-haiku-5-5", tier="fast", why="fast tier, cheapest")
    return replace(attempt, purpose=purpose, tokens_in=0, tokens_out=0, duration_ms=0).lost(41_234)


def test_the_state_of_four_steps_at_a_time_takes_one_unit(store: DynamoStore, wire: Wire) -> None:
    """Also with a deadline and a key that pays."""
    calls = tuple(a_pending_call(f"verdict {name * 8}") for name in "abcd")
    paid = a_task(UUID, mode=Mode.PLAN, charge=Charge(key_id="0" * 12, microusd_per_day=10**6), counted_for="0" * 12)
    store.add(paid, a_request())
    at_work = replace(claimed(replace(paid, deadline_ms=NOW_MS + 10**6), owner=UUID), pending=calls)
    store.save(paid, at_work)

    assert store.get(paid.ref).task == at_work
    assert max(size(item) for call in wire.calls for item in call.puts if item["sk"] == {"S": "STATE"}) < 1_024


def added(store: DynamoStore, task: Task) -> Task:
    store.add(task, a_request())
    return task


def test_a_chat_task_is_two_calls_to_submit_and_four_to_do(store: DynamoStore, wire: Wire) -> None:
    chat_task(store, "Say hello.", an_output())

    assert [call.operation for call in wire.calls] == [
        "PutItem",
        "TransactWriteItems",
        "Query",
        "TransactWriteItems",
        "PutItem",
        "TransactWriteItems",
    ]


@pytest.mark.parametrize(
    ("prompt_bytes", "answer_bytes", "cost_microusd", "units"),
    [(500, 1_500, 0, 17), (500, 1_500, 300, 19), (2_000, 4_000, 0, 18), (2_000, 4_000, 300, 20)],
)
def test_what_a_chat_task_costs_in_write_units(
    store: DynamoStore, wire: Wire, prompt_bytes: int, answer_bytes: int, cost_microusd: int, units: int
) -> None:
    """In people's words; two of them only for a call that cost money: what its tenant has spent."""
    attempt = an_attempt(cost_microusd=cost_microusd)

    chat_task(store, prose(prompt_bytes)[0], an_output(text=prose(answer_bytes)[0], attempts=(attempt,)))

    assert wire.write_units() == units


def test_a_task_with_a_near_deadline_costs_no_more(store: DynamoStore, wire: Wire) -> None:
    """From its creation on it is among what is looked at on time, and a claim does not change that."""
    near = a_task(UUID, deadline_ms=NOW_MS + LEASE_MS)
    chat_task(store, prose(500)[0], an_output(text=prose(1_500)[0], attempts=(an_attempt(cost_microusd=0),)), near)

    opened = [item["open"]["S"][:4] for call in wire.calls for item in call.puts if "open" in item]
    assert (opened, wire.write_units()) == (["SURE", "SURE"], 17)


@pytest.mark.parametrize(("prompt_bytes", "answer_bytes", "units"), [(500, 1_500, 18), (2_000, 4_000, 21)])
def test_what_a_text_that_cannot_be_packed_costs(
    store: DynamoStore, wire: Wire, prompt_bytes: int, answer_bytes: int, units: int
) -> None:
    chat_task(store, noise(prompt_bytes), an_output(text=noise(answer_bytes), attempts=(an_attempt(cost_microusd=0),)))

    assert wire.write_units() == units


def test_an_idempotency_key_is_one_write_unit_more(store: DynamoStore, wire: Wire) -> None:
    """And one call; without a key there is neither."""
    binding = IdempotencyBinding(task_id=UUID, body_hash="b" * 64, until_ms=NOW_MS + 1)
    store.bind_idempotency_key("local", "k" * 255, binding, now_ms=NOW_MS)

    assert (wire.operations, wire.write_units()) == ({"PutItem": 1}, 1)


def test_a_key_that_is_taken_is_read_and_forgotten_after_its_time(
    moto_substrate: Substrate, store: DynamoStore, wire: Wire
) -> None:
    binding = IdempotencyBinding(task_id=UUID, body_hash="b", until_ms=NOW_MS + 1_500)
    for _ in range(2):
        store.bind_idempotency_key("local", "k", binding, now_ms=NOW_MS)

    assert wire.operations == {"PutItem": 2, "GetItem": 1}
    assert wire.calls[0].puts[0]["ttl"] == {"N": str(NOW_MS // 1000 + 2)}


def test_a_state_is_smaller_than_one_write_unit(store: DynamoStore, wire: Wire) -> None:
    """Also with long names, large figures and a long history."""
    history = {"notes": (("c", 10**10),) * MAX_NOTES, "deadline_ms": NOW_MS, "retried_fence": 99}
    task = a_task(UUID, tenant="t" * 40, role="Fast-Coder-Agent", profile="Productivity", mode=Mode.PLAN, **history)
    attempt = an_attempt(tokens_in=10**7, tokens_out=10**7, duration_ms=10**7, cost_microusd=10**9, engine="e" * 40)
    plan, answer = an_output("PLAN", "{}", attempts=(attempt,) * 50), an_output(attempts=(attempt,) * 50)
    processing = claimed(task, owner="w" * 40)
    store.add(task, a_request())
    store.save(task, processing)
    store.save(processing, processing.progressed(plan), plan)
    store.save(processing.progressed(plan), processing.progressed(plan).completed(answer))

    states = [item for call in wire.calls for item in call.puts if item["sk"] == {"S": "STATE"}]
    assert len(states) == 4
    assert max(size(item) for item in states) < 1_024


@pytest.mark.parametrize(("value_bytes", "more"), [(0, 0), (150, 0), (1_000, 6), (8_000, 54)])
def test_what_metadata_costs_in_write_units(store: DynamoStore, wire: Wire, value_bytes: int, more: int) -> None:
    """A state is written three times, each time for two units a KB; the request holds the metadata once more."""
    plain, labelled = [{}, {"k": noise(value_bytes)}] if value_bytes else [{}, {}]
    units = []
    for n, metadata in enumerate((plain, labelled)):
        wire.calls.clear()
        task = a_task(f"{UUID[:-1]}{n}", tenant="acme", role="Writing-Agent", metadata=metadata)
        answer = an_output(attempts=(an_attempt(cost_microusd=0),))
        chat_task(store, "Say hello.", answer, task, metadata=metadata)
        units.append(wire.write_units())

    assert units[1] - units[0] == more


def test_a_prompt_is_written_outside_the_transaction(store: DynamoStore, wire: Wire) -> None:
    """Inside it would cost double."""
    chat_task(store, "The prompt.", an_output(text="The answer."))

    transactions = [call for call in wire.calls if call.operation == "TransactWriteItems"]
    assert len(transactions) == 3
    assert not any("The prompt." in str(call) or "The answer." in str(call) for call in transactions)


def test_metrics_are_one_batch_get(store: DynamoStore, wire: Wire) -> None:
    chat_task(store, "Say hello.", an_output())
    wire.calls.clear()

    store.overview()

    assert [call.operation for call in wire.calls] == ["BatchGetItem"]


def test_a_switch_is_one_update_and_the_engines_one_read_of_what_was_last_written(
    store: DynamoStore, wire: Wire
) -> None:
    """Every process reads them each 5 s; a read that may be stale would let a switch come later."""
    store.switch_engine("gpt", {"toggle": False, "locked": None})
    store.engines()

    assert [call.operation for call in wire.calls] == ["UpdateItem", "GetItem"]
    assert wire.calls[1].arguments["ConsistentRead"] is True


def test_nothing_ever_scans_or_changes_the_table(store: DynamoStore, wire: Wire) -> None:
    task = chat_task(store, "Say hello.", an_output())
    store.page("local", size=10)
    store.postpone(Due(task.ref, NOW_MS), task, NOW_MS)
    store.save_engine_state("gpt", EngineState())
    list(store.due(NOW_MS))
    store.peek(task.ref)
    store.spent_microusd("local", "2025-10-09")
    store.engines()
    store.switch_engine("gpt", {"toggle": False})
    store.overview()

    assert set(wire.operations) == {
        "PutItem", "UpdateItem", "TransactWriteItems", "GetItem", "BatchGetItem", "Query",
    }  # fmt: skip


def test_counters_are_spread_over_their_shards(moto_substrate: Substrate, wire: Wire) -> None:
    shards = iter([0, 1, 2, 0])
    store = DynamoStore(
        moto_substrate.dynamodb, moto_substrate.table, draw=lambda n: next(shards) % n, counter_shards=3
    )

    for _ in range(4):
        added(store, a_task())

    updates = [write["Update"] for call in wire.calls for write in call.arguments.get("TransactItems", [])[1:]]
    assert [update["Key"]["pk"]["S"] for update in updates] == ["CTR#0", "CTR#1", "CTR#2", "CTR#0"]
    assert store.overview()[0] == Counters(total=4, queued=4)


def test_what_a_tenant_spent_is_forgotten_after_40_days(moto_substrate: Substrate, store: DynamoStore) -> None:
    chat_task(store, "Say hello.", an_output())

    key = {"pk": {"S": "USE#local"}, "sk": {"S": "2025-10-09"}}
    item = moto_substrate.dynamodb.get_item(TableName=moto_substrate.table, Key=key)["Item"]
    assert item["ttl"] == {"N": str((NOW_MS + 2_000) // 1000 + 40 * 24 * 3600)}


@pytest.mark.parametrize("code", ["TransactionCanceledException", "TransactionInProgressException"])
def test_a_transaction_that_collides_is_tried_again(store: DynamoStore, wire: Wire, code: str) -> None:
    task = added(store, a_task())
    wire.refuse("TransactWriteItems", code, reasons=CONFLICT, times=3)

    store.save(task, claimed(task))

    assert store.peek(task.ref) == claimed(task)
    audit(store, [task.ref])


def test_a_single_write_that_collides_with_a_transaction_is_tried_again(store: DynamoStore, wire: Wire) -> None:
    """A sweep moves the task's due time on while its worker saves."""
    task = added(store, a_task())
    for operation in ("UpdateItem", "PutItem"):
        wire.refuse(operation, "TransactionConflictException", times=2)

    assert store.postpone(Due(task.ref, NOW_MS + SWEEP_MS), task, NOW_MS + LEASE_MS)
    store.keep(task.ref, an_output())

    assert store.get(task.ref).outputs == by_key(an_output())


def test_collisions_without_end_are_an_unavailable_store(store: DynamoStore, wire: Wire) -> None:
    task = added(store, a_task())
    wire.refuse("TransactWriteItems", "TransactionCanceledException", reasons=CONFLICT, times=12)

    with pytest.raises(StorageUnavailable):
        store.save(task, claimed(task))
    assert store.peek(task.ref) == task


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        ("ProvisionedThroughputExceededException", ()),
        ("ThrottlingException", ()),
        ("InternalServerError", ()),
        ("TransactionCanceledException", ("ValidationError", "None")),
        ("TransactionCanceledException", ("None", "None")),
        ("TransactionCanceledException", ()),
        ("ResourceNotFoundException", ()),
    ],
)
def test_any_other_refusal_is_an_unavailable_store(
    store: DynamoStore, wire: Wire, code: str, reasons: tuple[str, ...]
) -> None:
    task = added(store, a_task())
    wire.refuse("TransactWriteItems", code, reasons=reasons)

    with pytest.raises(StorageUnavailable):
        store.save(task, claimed(task))
    assert store.peek(task.ref) == task
    audit(store, [task.ref])


@pytest.mark.parametrize("operation", ["PutItem", "TransactWriteItems"])
def test_a_submission_whose_reply_was_lost_can_be_repeated(store: DynamoStore, wire: Wire, operation: str) -> None:
    task = a_task()
    wire.lose_reply(operation)

    with pytest.raises(StorageUnavailable):
        store.add(task, a_request())
    store.add(task, a_request())

    assert store.get(task.ref).task == task
    audit(store, [task.ref])


def test_a_save_whose_reply_was_lost_is_found_by_reading(store: DynamoStore, wire: Wire) -> None:
    """Repeated, it is neither taken for another worker's write nor counted twice."""
    task = added(store, a_task())
    wire.lose_reply("TransactWriteItems")

    with pytest.raises(StorageUnavailable):
        store.save(task, claimed(task))
    store.save(task, claimed(task))

    audit(store, [task.ref])


def test_a_save_is_lost_when_another_came_between_a_collision_and_the_next_try(store: DynamoStore, wire: Wire) -> None:
    task = added(store, a_task())
    wire.refuse("TransactWriteItems", "TransactionCanceledException", reasons=CONFLICT)
    wire.meanwhile("TransactWriteItems", lambda: store.save(task, claimed(task, owner="w2")))

    with pytest.raises(TaskLost):
        store.save(task, claimed(task, owner="w1"))
    assert store.peek(task.ref).owner == "w2"
    audit(store, [task.ref])


def test_an_unreachable_database_is_an_unavailable_store(store: DynamoStore, wire: Wire) -> None:
    ref = added(store, a_task()).ref
    reads: dict[str, Callable[[], object]] = {
        "Query": lambda: store.get(ref),
        "GetItem": lambda: store.peek(ref),
        "BatchGetItem": store.overview,
        "UpdateItem": lambda: store.save_engine_state("gpt", EngineState()),
    }
    for operation, call in reads.items():
        wire.lose_reply(operation)
        with pytest.raises(StorageUnavailable):
            call()


def test_an_id_that_fits_no_key_is_not_even_asked_for(store: DynamoStore, wire: Wire) -> None:
    """DynamoDB would call the request invalid, and that reads like a fault of ours."""
    with pytest.raises(TaskNotFound):
        store.get(TaskRef("local", "x" * 2_000))

    assert wire.calls == []


def test_a_record_of_a_newer_version_is_told_from_one_that_is_gone(
    moto_substrate: Substrate, store: DynamoStore
) -> None:
    """And moves on without being read, so that the sweep gets to the others."""
    task, strange = added(store, a_task()), a_task()
    item = state(strange) | in_open(strange.task_id, NOW_MS) | {"body": {"S": '{"mode":"Debate"}'}}
    moto_substrate.dynamodb.put_item(TableName=moto_substrate.table, Item=item)
    due = Due(strange.ref, NOW_MS)

    assert store.peek_each([task.ref, strange.ref, a_task().ref]) == {task.ref: task, strange.ref: None}
    assert next(store.due(NOW_MS)) == due
    assert store.postpone(due, None, NOW_MS + 1)
    assert not store.postpone(due, None, NOW_MS + 2)
    assert list(store.due(NOW_MS)) == []
