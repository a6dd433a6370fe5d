"""What an Idempotency-Key stands for: one conditional write, and a read where the key is taken."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.ports import IdempotencyBinding
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, tries, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def bind(
    client: DynamoDBClient, table: str, tenant: str, key: str, binding: IdempotencyBinding, *, now_ms: int
) -> IdempotencyBinding:
    """Store a binding unless one stands there whose time is not over; returns the binding that holds now."""
    item = _item(tenant, key, binding)
    put = partial(
        client.put_item,
        TableName=table,
        Item=item,
        ConditionExpression="attribute_not_exists(pk) OR #until <= :now",
        ExpressionAttributeNames={"#until": "until"},
        ExpressionAttributeValues={":now": items.number(now_ms)},
    )
    for _ in tries():  # again only where the binding ended between our two calls
        stored: dict[str, Any] = item
        try:
            writing(put)
        except ConditionFailed:
            stored = _read(client, table, tenant, key)
        if stored:
            return records.idempotency_binding(stored["body"]["S"])
    raise AssertionError  # `tries` raises first


def bound(client: DynamoDBClient, table: str, tenant: str, key: str, *, now_ms: int) -> IdempotencyBinding | None:
    """The binding that holds now; one whose time is over may still be stored."""
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
    """Removed by the database some time after its end."""
    return _key(tenant, key) | {
        "body": {"S": records.encode(binding)},
        "until": items.number(binding.until_ms),
        "ttl": items.seconds(binding.until_ms),
    }
