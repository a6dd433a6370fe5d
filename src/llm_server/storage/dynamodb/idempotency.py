"""Bindings of Idempotency-Keys: one conditional write, and one read if an earlier binding is in force."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, tries, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def bind(
    client: DynamoDBClient, table: str, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
) -> IdempotencyBinding:
    """Store a binding, unless an earlier one is in force. Return the binding that is in force after the call."""
    item = _item(tenant, key, binding)
    put = partial(
        client.put_item,
        TableName=table,
        Item=item,
        ConditionExpression="attribute_not_exists(pk) OR #until <= :now",
        ExpressionAttributeNames={"#until": "until"},
        ExpressionAttributeValues={":now": items.number(now_ms)},
    )
    for _ in tries():  # repeats only if the earlier binding expired between the write and the read
        stored: dict[str, Any] = item
        try:
            writing(put)
        except ConditionFailed:
            stored = _read(client, table, tenant, key)
        if stored:
            return records.idempotency_binding(stored["body"]["S"])
    raise AssertionError("unreachable: tries() raises StorageUnavailable")


def bound(client: DynamoDBClient, table: str, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
    """Return the binding that is in force at `now_ms`. An expired one may still be stored; it is ignored."""
    stored = _read(client, table, tenant, key)
    if not stored or int(stored["until"]["N"]) <= now_ms:
        return None
    return records.idempotency_binding(stored["body"]["S"])


def _read(client: DynamoDBClient, table: str, tenant: str, key: str) -> dict[str, Any]:
    with calling():
        return client.get_item(TableName=table, Key=_key(tenant, key), ConsistentRead=True).get("Item", {})


def _key(tenant: str, key: str) -> dict[str, Any]:
    return {"pk": {"S": f"IDEM#{tenant}#{sha256(key.encode()).hexdigest()}"}, "sk": {"S": "KEY"}}


def _item(tenant: str, key: str, binding: IdempotencyBinding) -> dict[str, Any]:
    """Return the item of a binding. DynamoDB removes it some time after the binding has expired."""
    return _key(tenant, key) | {
        "body": {"S": records.encode(binding)},
        "until": items.number(binding.until_ms),
        "ttl": items.seconds(binding.until_ms),
    }
