"""What API keys cost on DynamoDB, and how their counts bear its faults, seen on the wire."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.api_key import Account
from llm_server.orchestration.domain.errors import StorageUnavailable, TooManyInFlight
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_key, a_request, a_task, an_output, claimed, noise, prose
from support.dynamodb_wire import Wire, recording

UUID = "01979f5e-7a3c-7b21-9c4d-5e6f708192a3"
TODAY = Account("0123456789ab", "2025-10-09")


@pytest.fixture
def keys(moto_keys: DynamoKeys) -> DynamoKeys:
    return moto_keys


def units(wire: Wire) -> int:
    cost = wire.write_units()
    wire.calls.clear()
    return cost


def test_what_each_limit_costs_in_write_units(moto_store: DynamoStore, keys: DynamoKeys, wire: Wire) -> None:
    """A request 1, an engine call 2; a task in flight 4 for its two counts and 1 for its prompt, which moves into the
    transaction. The same task without limits is 17 (test_dynamodb.py)."""
    keys.count_request(TODAY.key_id, 1, most=5)
    request = units(wire)
    keys.reserve(TODAY, "t#1", 100, max_microusd=1_000)
    keys.settle(TODAY, "t#1", 100, 40)
    call = units(wire)
    task, answer = a_task(UUID, counted_for=TODAY.key_id), an_output(text=prose(1_500)[0], attempts=())
    moto_store.add(task, a_request(prose(500)[0]), max_in_flight=5)
    processing = claimed(task, owner=UUID)
    moto_store.save(task, processing)
    moto_store.keep(task.ref, answer)
    moto_store.save(processing, processing.completed(answer))
    in_flight = units(wire)

    assert (request, call, in_flight) == (1, 2, 17 + 5)


def test_a_refused_task_leaves_nothing_of_its_prompt_behind(aws_substrate: Substrate) -> None:
    """However long; nor does one that breaks off."""
    store = DynamoStore(aws_substrate.dynamodb, aws_substrate.table, draw=lambda n: 0)
    store.add(a_task(counted_for=TODAY.key_id), a_request(), max_in_flight=1)
    before = aws_substrate.dynamodb.scan(TableName=aws_substrate.table)["Items"]

    with pytest.raises(TooManyInFlight):
        store.add(a_task(counted_for=TODAY.key_id), a_request(noise(800_000)), max_in_flight=1)
    with recording(aws_substrate.dynamodb) as wire:
        wire.refuse("TransactWriteItems", "InternalServerError")
        with pytest.raises(StorageUnavailable):
            store.add(a_task(counted_for=TODAY.key_id), a_request(noise(800_000)), max_in_flight=9)

    assert aws_substrate.dynamodb.scan(TableName=aws_substrate.table)["Items"] == before


def test_a_key_without_limits_writes_nothing_more(moto_store: DynamoStore, wire: Wire) -> None:
    moto_store.add(a_task(UUID), a_request(prose(500)[0]))

    assert not any("KEY#" in str(call.arguments) for call in wire.calls)


def test_no_key_is_ever_scanned_for(keys: DynamoKeys, wire: Wire) -> None:
    keys.add_key(a_key())
    keys.has_keys()
    keys.all_keys()
    keys.use(TODAY)

    assert set(wire.operations) == {"PutItem", "Query", "GetItem"}


def test_a_key_that_changes_between_the_read_and_the_write_of_a_swap_stays(keys: DynamoKeys, wire: Wire) -> None:
    """A revocation that comes in between is not undone."""
    key = a_key()
    keys.add_key(key)
    revoked = replace(key, revoked_ms=NOW_MS)
    wire.meanwhile("PutItem", lambda: keys.swap_key(key, revoked))

    assert not keys.swap_key(key, replace(key, name="late"))
    assert keys.key(key.key_id) == revoked


def test_many_keys_are_all_listed(keys: DynamoKeys, wire: Wire) -> None:
    """A page of a query holds 1 MB."""
    made = [a_key(name="é" * 100, scopes=("tasks",) * 3_000) for _ in range(50)]
    for key in made:
        keys.add_key(key)
    wire.calls.clear()

    assert {key.key_id for key in keys.all_keys()} == {key.key_id for key in made}
    assert wire.operations["Query"] > 1


def test_a_reservation_whose_reply_was_lost_is_charged_once(keys: DynamoKeys, wire: Wire) -> None:
    """And a settlement gives back once: twice would let the key go above its cap."""
    reserve = partial(keys.reserve, TODAY, "t#1", 600, max_microusd=1_000)
    settle = partial(keys.settle, TODAY, "t#1", 600, 100)
    for act in (reserve, settle):
        wire.lose_reply("UpdateItem")
        with pytest.raises(StorageUnavailable):
            act()
        assert act() is None

    assert keys.use(TODAY).charged_microusd == 100


def test_a_count_that_collides_is_tried_again(keys: DynamoKeys, wire: Wire) -> None:
    wire.refuse("UpdateItem", "TransactionConflictException", times=2)

    assert keys.count_request(TODAY.key_id, 1, most=5) == 4


def test_counts_that_are_over_are_forgotten(moto_substrate: Substrate, keys: DynamoKeys) -> None:
    """A minute after an hour, a day after forty."""
    minute, day_s = NOW_MS // 60_000, NOW_MS // 86_400_000 * 86_400
    keys.count_request(TODAY.key_id, minute, most=5)
    keys.reserve(TODAY, "t#1", 1, max_microusd=1_000)
    rows = moto_substrate.dynamodb.scan(TableName=moto_substrate.table)["Items"]

    assert {row["sk"]["S"][:3]: int(row["ttl"]["N"]) for row in rows} == {
        "MIN": minute * 60 + 3_600,
        "DAY": day_s + 40 * 86_400,
    }
