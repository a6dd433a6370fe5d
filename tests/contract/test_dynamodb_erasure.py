"""How the deletion of a tenant looks on DynamoDB: what it finds without an index, and what is left if it breaks off."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from llm_server.cli.app import app
from llm_server.orchestration.domain import event_numbers
from llm_server.orchestration.domain.errors import StorageUnavailable
from llm_server.orchestration.domain.ports.deltas import Delta
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.orchestration.domain.ports.tenants import Erased
from llm_server.orchestration.domain.task import DAY_MS, Task
from llm_server.storage.dynamodb.api_keys import DynamoKeys
from llm_server.storage.dynamodb.store import DynamoStore
from support.aws_emulators import Substrate
from support.builders import NOW_MS, a_key, a_request, a_task, an_output, claimed, noise
from support.dynamodb_wire import Wire


@pytest.fixture
def store(moto_store: DynamoStore) -> DynamoStore:
    return moto_store


def ended(store: DynamoStore, length: int = 10) -> Task:
    task = a_task(tenant="acme")
    store.add(task, a_request(noise(length), stream=True))
    store.save(task, claimed(task))
    number = event_numbers.number(claimed(task).rev, event_numbers.TEXT)
    store.append(task.ref, [Delta(number=number, item=event_numbers.FIRST_CALL, text=noise(length), at_ms=NOW_MS)])
    answer = an_output(text=noise(length, seed=1))
    store.save(claimed(task), claimed(task).completed(answer), answer)
    return claimed(task).completed(answer)


def bind(store: DynamoStore) -> None:
    binding = IdempotencyBinding(task_id="t1", body_hash="b", until_ms=NOW_MS + DAY_MS)
    store.bind_idempotency_key("acme", "k", binding, now_ms=NOW_MS)


def items_of_acme(on: Substrate) -> list[dict[str, Any]]:
    pages = on.dynamodb.get_paginator("scan").paginate(TableName=on.table)
    return [dict(row) for page in pages for row in page["Items"] if "acme" in str(row)]


def gravestones(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["sk"]["S"] == "STATE" and row.keys() <= {"pk", "sk", "ttl", "open", "due"}]


def test_texts_whose_task_is_gone_are_found(store: DynamoStore, moto_substrate: Substrate) -> None:
    """The time to live removes a task 8 days before its texts. No index has them."""
    task = ended(store)
    key = {"pk": {"S": f"T#acme#{task.task_id}"}, "sk": {"S": "STATE"}}
    moto_substrate.dynamodb.delete_item(TableName=moto_substrate.table, Key=key)

    assert store.erase("acme") == Erased(days_of_spending=1)
    assert items_of_acme(moto_substrate) == []


def test_a_state_that_cannot_be_read_is_removed(store: DynamoStore, moto_substrate: Substrate) -> None:
    task = ended(store)
    moto_substrate.dynamodb.update_item(
        TableName=moto_substrate.table,
        Key={"pk": {"S": f"T#acme#{task.task_id}"}, "sk": {"S": "STATE"}},
        UpdateExpression="SET body = :body",
        ExpressionAttributeValues={":body": {"S": "no json"}},
    )

    assert store.erase("acme").tasks == 1
    left = items_of_acme(moto_substrate)
    assert gravestones(left) == left


def test_a_table_of_several_pages_is_read_to_its_end(store: DynamoStore, moto_substrate: Substrate) -> None:
    for _ in range(4):
        ended(store, 900_000)
    bind(store)

    assert store.erase("acme") == Erased(tasks=4, idempotency_keys=1, days_of_spending=1)
    left = items_of_acme(moto_substrate)
    assert (len(left), gravestones(left)) == (4, left)


@pytest.mark.parametrize("operation", ["Scan", "GetItem", "PutItem", "Query", "DeleteItem", "UpdateItem"])
def test_an_erasure_that_broke_off_at_any_call_is_completed_by_the_next(
    store: DynamoStore, moto_substrate: Substrate, wire: Wire, operation: str
) -> None:
    """What is left in the end are the names of the tasks; the sweep takes them out of its index."""
    tasks, is_broken_off = 0, True
    while is_broken_off:
        ended(store, 900_000)
        bind(store)
        wire.refuse(operation, "InternalServerError", after=tasks)
        tasks += 1
        try:
            store.erase("acme")
            is_broken_off = False
        except StorageUnavailable:
            pass
        wire.before.clear()
        store.erase("acme")
        left = items_of_acme(moto_substrate)
        assert (len(left), gravestones(left)) == (tasks, left)
    assert tasks > 1


def test_the_command_deletes_a_tenant_of_a_table(store: DynamoStore, moto_substrate: Substrate) -> None:
    """It needs the table's name and AWS credentials, but not the queue. It says what stays, and where."""
    ended(store)
    store.add(a_task(tenant="acme"), a_request())
    environ = {"LLM_SERVER_TABLE": moto_substrate.table, "LLM_SERVER_QUEUE_URL": ""}

    deleted = CliRunner().invoke(app, ["tenants", "delete", "acme", "--yes"], env=environ)

    assert (deleted.exit_code, deleted.stdout) == (
        0,
        "Deleted for tenant acme: 2 tasks, 0 conversations, 0 Idempotency-Keys, 1 daily total, 0 API keys.\n",
    )
    assert "point-in-time backups (35 days)" in deleted.stderr
    left = items_of_acme(moto_substrate)
    assert (len(left), gravestones(left)) == (2, left)


def test_a_removed_key_leaves_no_item(moto_keys: DynamoKeys, moto_substrate: Substrate) -> None:
    key = a_key(tenant="acme", name="acme's")
    moto_keys.add_key(key)
    for minute in range(3):
        moto_keys.count_request(key.key_id, minute, most=5)

    moto_keys.remove_key(key.key_id)

    rows = moto_substrate.dynamodb.scan(TableName=moto_substrate.table)["Items"]
    assert rows == []
