"""What an Idempotency-Key stands for: one conditional write, and a read where the key is taken."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.ports import KeyBinding
from llm_server.storage import dynamodb_items as items
from llm_server.storage import records
from llm_server.storage.dynamodb_calls import ConditionFailed, calling, tries, writing

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def bind(client: DynamoDBClient, table: str, tenant: str, key: str, binding: KeyBinding, *, now_ms: int) -> KeyBinding:
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
            with calling():
                row = client.get_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]}, ConsistentRead=True)
            stored = row.get("Item", {})
        if stored:
            return records.KEY_BINDING.decode(stored["body"]["S"])
    raise AssertionError  # `tries` raises first


def _item(tenant: str, key: str, binding: KeyBinding) -> dict[str, Any]:
    """Removed by the database some time after its end."""
    return {
        "pk": {"S": f"IDEM#{tenant}#{sha256(key.encode()).hexdigest()}"},
        "sk": {"S": "KEY"},
        "body": {"S": records.encode(binding)},
        "until": items.number(binding.until_ms),
        "ttl": items.seconds(binding.until_ms),
    }
