"""Tasks and their texts as DynamoDB items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any
from zlib import crc32

from llm_server.orchestration.ports import EngineRecords, EngineSwitch, SwitchName
from llm_server.orchestration.task import Task, TaskRef
from llm_server.storage import records

PART_BYTES = 350_000
"""An item holds 400 KB, names and keys included."""

OPEN_SHARDS = 8
ENGINES_KEY = {"pk": {"S": "ENG"}, "sk": {"S": "STATE"}}
ENGINE_PREFIX = "engine:"
SWITCHES: tuple[SwitchName, ...] = ("toggle", "locked")


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


def in_open(task_id: str, due_ms: int) -> dict[str, Any]:
    """What puts an item into the index of what the sweep looks at."""
    return {"open": {"S": f"OPEN#{crc32(task_id.encode()) % OPEN_SHARDS}"}, "due": number(due_ms)}


def gravestone(ref: TaskRef, until_ms: int) -> dict[str, Any]:
    """What stands in the place of a deleted task's state: found by no read, replaced by no write."""
    return key(ref, "STATE") | {"ttl": seconds(until_ms)}


def is_gravestone(row: Mapping[str, Any]) -> bool:
    return "body" not in row


def task(row: Mapping[str, Any]) -> Task:
    return records.TASK.decode(row["body"]["S"])


def engine_records(row: Mapping[str, Any]) -> EngineRecords:
    states = {name: records.ENGINE_STATE.decode(value["S"]) for name, value in _of(row, ENGINE_PREFIX)}
    said = {switch: {name: value["BOOL"] for name, value in _of(row, f"{switch}:")} for switch in SWITCHES}
    switched = {name for names in said.values() for name in names}
    switches = {name: EngineSwitch(**{switch: said[switch].get(name) for switch in SWITCHES}) for name in switched}
    return EngineRecords(states=states, switches=switches)


def _of(row: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(prefix), value) for name, value in row.items() if name.startswith(prefix))


def switching(engine: str, changes: Mapping[SwitchName, bool | None]) -> dict[str, Any]:
    """An Update of each switch by itself, so that two that change different ones never undo each other."""
    said = {switch: on for switch, on in changes.items() if on is not None}
    left = [switch for switch in changes if switch not in said]
    update: dict[str, Any] = {
        "UpdateExpression": " ".join(
            [f"SET {', '.join(f'#{s} = :{s}' for s in said)}"] * bool(said)
            + [f"REMOVE {', '.join(f'#{s}' for s in left)}"] * bool(left)
        ),
        "ExpressionAttributeNames": {f"#{switch}": f"{switch}:{engine}" for switch in changes},
    }
    return update | ({"ExpressionAttributeValues": {f":{s}": {"BOOL": on} for s, on in said.items()}} if said else {})


def addition(table: str, key: Mapping[str, Any], delta: Mapping[str, int]) -> dict[str, Any]:
    """An Update that adds to an item's figures."""
    return {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "ADD " + ", ".join(f"#{name} :{name}" for name in delta),
        "ExpressionAttributeNames": {f"#{name}": name for name in delta},
        "ExpressionAttributeValues": {f":{name}": number(value) for name, value in delta.items()},
    }


def split(ref: TaskRef, sk: str, text: str, until_ms: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A text as the item that holds its beginning and names its parts, and the parts.

    The parts are named after the whole text: of two workers that write the same record, neither overwrites parts of
    the other's, and the record that stays names its own.
    """
    first, *others = _chunks(text)
    ttl = {} if until_ms is None else {"ttl": seconds(until_ms)}
    head: dict[str, Any] = key(ref, sk) | ttl | {"body": {"S": first}}
    if not others:
        return head, []
    name = f"{sk}~{sha256(text.encode()).hexdigest()[:16]}"
    parts = [key(ref, f"{name}#{n}") | ttl | {"body": {"S": chunk}} for n, chunk in enumerate(others)]
    head["parts"] = {"L": [part["sk"] for part in parts]}
    return head, parts


def joined(rows: Mapping[str, Mapping[str, Any]], sk: str) -> str:
    """The whole text of a record, from all rows of its partition by sort key."""
    parts = [part["S"] for part in rows[sk].get("parts", {"L": []})["L"]]
    return "".join(rows[name]["body"]["S"] for name in (sk, *parts))


def is_part(sk: str) -> bool:
    return "~" in sk


def _chunks(text: str) -> list[str]:
    data = text.encode()
    if len(data) <= PART_BYTES:
        return [text]
    chunks, start = [], 0
    while start < len(data):
        chunk = data[start : start + PART_BYTES].decode(errors="ignore")
        chunks.append(chunk)
        start += len(chunk.encode())
    return chunks
