"""The DynamoDB items of tasks and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records
from llm_server.storage.listing import listing_key

OPEN_SHARDS = 8
SURE_SHARDS = 4
"""Fewer than `OPEN_SHARDS`: the sweep writes most entries here, one by one, and each shard costs a query a minute."""


def number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def seconds(milliseconds: int) -> dict[str, str]:
    """Return a time to live, in Unix seconds, rounded up."""
    return number(-(-milliseconds // 1000))


def partition(ref: TaskRef) -> str:
    return f"T#{ref.tenant}#{ref.task_id}"


def key(ref: TaskRef, sk: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": partition(ref)}, "sk": {"S": sk}}


def in_flight_key(key_id: str) -> dict[str, dict[str, str]]:
    """Return the key of the item that counts an API key's open tasks."""
    return {"pk": {"S": f"KEY#{key_id}"}, "sk": {"S": "OPEN"}}


def ref(row: Mapping[str, Any]) -> TaskRef:
    """Return the task that an item belongs to, from its partition key."""
    _, tenant, task_id = row["pk"]["S"].split("#", 2)
    return TaskRef(tenant, task_id)


def state(task: Task, until_ms: int | None = None) -> dict[str, Any]:
    """Return the item of a task's state. DynamoDB removes it some time after `until_ms`, if that is not None."""
    ttl = {} if until_ms is None else {"ttl": seconds(until_ms)}
    return (
        key(task.ref, "STATE")
        | ttl
        | {
            "rev": number(task.rev),
            "tenant": {"S": task.tenant},
            "created": {"S": listing_key(task)},
            "body": {"S": records.encode(task)},
        }
    )


def in_open(task_id: str, due_ms: int, *, sure: bool = False) -> dict[str, Any]:
    """Return the attributes that put an item into the index `open`. `sure` tasks must be looked at on time (ADR 14)."""
    name, shards = ("SURE", SURE_SHARDS) if sure else ("OPEN", OPEN_SHARDS)
    return {"open": {"S": f"{name}#{crc32(task_id.encode()) % shards}"}, "due": number(due_ms)}


def gravestone(ref: TaskRef, until_ms: int) -> dict[str, Any]:
    """Return the item that replaces a deleted task's state. No read shows it, and no write replaces it."""
    return key(ref, "STATE") | {"ttl": seconds(until_ms)}


def is_gravestone(row: Mapping[str, Any]) -> bool:
    return "body" not in row


def task(row: Mapping[str, Any]) -> Task:
    return records.task(row["body"]["S"])


def addition(table: str, key: Mapping[str, Any], delta: Mapping[str, int]) -> dict[str, Any]:
    """Return an Update that adds to the numbers of an item."""
    return {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "ADD " + ", ".join(f"#{name} :{name}" for name in delta),
        "ExpressionAttributeNames": {f"#{name}": name for name in delta},
        "ExpressionAttributeValues": {f":{name}": number(value) for name, value in delta.items()},
    }
