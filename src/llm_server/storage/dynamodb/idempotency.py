"""Bindings of Idempotency-Keys, and POSTs without one that a client may repeat.

A binding is one conditional write, and one read if an earlier binding is in force.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llm_server.orchestration.domain.ports.repeats import Original
from llm_server.orchestration.domain.ports.tasks import IdempotencyBinding
from llm_server.storage import records
from llm_server.storage.dynamodb import items
from llm_server.storage.dynamodb.calls import ConditionFailed, calling, pages, tries, writing

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


def note_original(client: DynamoDBClient, table: str, tenant: str, fingerprint: str, original: Original) -> None:
    """Store a POST that may be repeated."""
    item = _original_item(tenant, fingerprint, original)
    writing(partial(client.put_item, TableName=table, Item=item))


def originals(client: DynamoDBClient, table: str, tenant: str, fingerprint: str, *, now_ms: int) -> list[Original]:
    """Return the POSTs that may be repeated at `now_ms`, oldest first. Expired ones may still be stored."""
    query = pages(
        client.query,
        TableName=table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": _originals(tenant, fingerprint)}},
        ConsistentRead=True,
    )
    found = [records.original(item["body"]["S"]) for item in query]
    return sorted((o for o in found if o.until_ms > now_ms), key=lambda o: o.at_ms)


def swap_original(
    client: DynamoDBClient, table: str, tenant: str, fingerprint: str, before: Original, after: Original
) -> bool:
    """Replace a POST if it is still `before`. Return whether it is `after` now."""
    item = _original_item(tenant, fingerprint, after)
    put = partial(
        client.put_item,
        TableName=table,
        Item=item,
        ConditionExpression="body = :before",
        ExpressionAttributeValues={":before": {"S": records.encode(before)}},
    )
    try:
        writing(put)
    except ConditionFailed:  # perhaps by this call, whose reply was lost
        key = {"pk": item["pk"], "sk": item["sk"]}
        with calling():
            stored = client.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        return bool(stored.get("body") == item["body"])
    return True


def _originals(tenant: str, fingerprint: str) -> str:
    return f"IDEM#{tenant}#POST#{fingerprint}"


def _original_item(tenant: str, fingerprint: str, original: Original) -> dict[str, Any]:
    return {
        "pk": {"S": _originals(tenant, fingerprint)},
        "sk": {"S": original.task_id},
        "body": {"S": records.encode(original)},
        "ttl": items.seconds(original.until_ms),
    }


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
