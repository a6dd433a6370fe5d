"""Texts as items of their task's partition: compressed if that costs less, and in parts if one item is too small.

The body of an item is a string (the text), or binary (the text compressed by zlib). Readers accept both.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items

PART_BYTES = 350_000
"""The largest body of an item. DynamoDB's limit for an item is 400 KB, including attribute names and keys."""

UNIT_BYTES = 1_024
"""DynamoDB charges a write unit for each started 1,024 bytes of an item."""

FRAME = (
    b'{"prompt":"","engine":null,"limits":{"max_cost_usd":null,"deadline_s":null,"max_output_tokens":null},'
    b'"metadata":{},"confidence":1.0,"complexity":0.0,"reasons":[],"plan_approval":false,"charge":null}'
    b'{"key":"RES#1","created_ms":1760000002000,"text":"","error":null,"attempts":[{"engine":"gpt","model":'
    b'"gpt-5-mini","source":"api","purpose":"answer","started_ms":1760000001000,"duration_ms":1000,"tokens_in":10,'
    b'"tokens_out":20,"usage_estimated":false,"truncated":false,"fault":null,"tier":null,"why":"","cost_microusd":'
    b'300,"error":null}],"review":null,"fence":0}'
)
"""A preset dictionary (RFC 1950): the JSON around every text, so that compressed bodies need not contain it.

It must never change: bodies that were compressed with it could not be read any more. If the form of records changes,
they only become larger. A better dictionary must be added as a second one; the checksum that zlib writes into each body
tells which one it needs.
"""


def split(
    ref: TaskRef, sk: str, text: str, until_ms: int | None = None, *, salt: bytes = b""
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the item that holds the beginning of a text and names its parts, and the parts.

    The name of a part contains a digest of the text. So if two workers write the same record, neither overwrites parts
    of the other, and the record that was written last names its own parts. With a random `salt`, no other call names
    its parts alike, even for the same text.
    """
    key: dict[str, Any] = items.key(ref, sk) | ({} if until_ms is None else {"ttl": items.seconds(until_ms)})
    plain, content = key | {"body": {"S": text}}, text.encode()
    if _units([plain]) == 1:
        return plain, []
    rows = _packed(key, content, salt)
    if len(content) <= PART_BYTES and _units([plain]) <= _units(rows):
        return plain, []
    return rows[0], rows[1:]


def joined(rows: Mapping[str, Mapping[str, Any]], sk: str) -> str:
    """Return the whole text of a record. `rows` are all rows of its partition by sort key."""
    bodies = [rows[name]["body"] for name in (sk, *parts(rows[sk]))]
    if "B" in bodies[0]:
        return zlib.decompressobj(zdict=FRAME).decompress(b"".join(body["B"] for body in bodies)).decode()
    return "".join(body["S"] for body in bodies)


def is_whole(rows: Mapping[str, Mapping[str, Any]], sk: str) -> bool:
    """Return whether a record and all its parts are present: DynamoDB removes expired items one by one."""
    return sk in rows and all(name in rows for name in parts(rows[sk]))


def is_part(sk: str) -> bool:
    return "~" in sk


def parts(row: Mapping[str, Any]) -> list[str]:
    """Return the sort keys of a record's parts, in order."""
    return [part["S"] for part in row.get("parts", {"L": []})["L"]]


def _packed(key: dict[str, Any], content: bytes, salt: bytes) -> list[dict[str, Any]]:
    compressor = zlib.compressobj(zdict=FRAME)
    packed = compressor.compress(content) + compressor.flush()
    first, *others = (packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES))
    head = key | {"body": {"B": first}}
    if not others:
        return [head]
    name = f"{key['sk']['S']}~{sha256(packed + salt).hexdigest()[:16]}"
    parts = [key | {"sk": {"S": f"{name}#{n}"}, "body": {"B": part}} for n, part in enumerate(others)]
    return [head | {"parts": {"L": [part["sk"] for part in parts]}}, *parts]


def _units(rows: Iterable[Mapping[str, Any]]) -> int:
    """Return the write units that these items cost, by their size.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(-(-sum(len(name) + _size(value) for name, value in row.items()) // UNIT_BYTES) for row in rows)


def _size(value: Mapping[str, Any]) -> int:
    """Return the bytes that DynamoDB counts for a value.

    A string counts its bytes in UTF-8. A number counts half a byte for each digit, and one byte. A list counts 3 bytes,
    and one byte and the size of each element.
    """
    ((kind, content),) = value.items()
    if kind == "L":
        return 3 + sum(1 + _size(each) for each in content)
    return len(content) // 2 + 2 if kind == "N" else len(content if kind == "B" else content.encode())
