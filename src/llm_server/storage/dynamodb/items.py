"""Tasks, and what is counted of them, as DynamoDB items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

from llm_server.orchestration.domain.task import Task, TaskRef
from llm_server.storage import records

OPEN_SHARDS = 8
SURE_SHARDS = 4
"""Fewer: the sweep puts almost everything there, one by one, and each shard is a query a minute."""


def number(value: int) -> dict[str, str]:
    return {"N": str(value)}


def seconds(milliseconds: int) -> dict[str, str]:
    """A time to live: Unix seconds, rounded up."""
    return number(-(-milliseconds // 1000))


def partition(ref: TaskRef) -> str:
    return f"T#{ref.tenant}#{ref.task_id}"


def key(ref: TaskRef, sk: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": partition(ref)}, "sk": {"S": sk}}


def in_flight_key(key_id: str) -> dict[str, dict[str, str]]:
    """Where the open tasks of an API key are counted."""
    return {"pk": {"S": f"KEY#{key_id}"}, "sk": {"S": "OPEN"}}


def ref(row: Mapping[str, Any]) -> TaskRef:
    """The task an item belongs to, by its partition."""
    _, tenant, task_id = row["pk"]["S"].split("#", 2)
    return TaskRef(tenant, task_id)


def state(task: Task, until_ms: int | None = None) -> dict[str, Any]:
    """A task's state; the database removes it some time after `until_ms`."""
    ttl = {} if until_ms is None else {"ttl": seconds(until_ms)}
    return (
        key(task.ref, "STATE")
        | ttl
        | {
            "rev": number(task.rev),
            "tenant": {"S": task.tenant},
            "created": {"S": records.listing_key(task)},
            "body": {"S": records.encode(task)},
        }
    )


def in_open(task_id: str, due_ms: int, *, sure: bool = False) -> dict[str, Any]:
    """What puts an item into the index of what the sweep looks at; `sure`: it must be looked at on time (ADR 14)."""
    name, shards = ("SURE", SURE_SHARDS) if sure else ("OPEN", OPEN_SHARDS)
    return {"open": {"S": f"{name}#{crc32(task_id.encode()) % shards}"}, "due": number(due_ms)}


def gravestone(ref: TaskRef, until_ms: int) -> dict[str, Any]:
    """What stands in the place of a deleted task's state: found by no read, replaced by no write."""
    return key(ref, "STATE") | {"ttl": seconds(until_ms)}


def is_gravestone(row: Mapping[str, Any]) -> bool:
    return "body" not in row


def task(row: Mapping[str, Any]) -> Task:
    return records.task(row["body"]["S"])


def addition(table: str, key: Mapping[str, Any], delta: Mapping[str, int]) -> dict[str, Any]:
    """An Update that adds to an item's figures."""
    return {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "ADD " + ", ".join(f"#{name} :{name}" for name in delta),
        "ExpressionAttributeNames": {f"#{name}": name for name in delta},
        "ExpressionAttributeValues": {f":{name}": number(value) for name, value in delta.items()},
    }
