"""A text as items of its task's partition: packed where that costs less, in parts where one item is too small.

An item's body is a string, the text itself, or binary, the text packed by zlib; a reader takes either.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.dynamodb import items

PART_BYTES = 350_000
"""An item holds 400 KB, names and keys included."""

UNIT_BYTES = 1_024
"""Of an item, for one write unit."""

FRAME = (
    b'{"prompt":"","engine":null,"limits":{"max_cost_usd":null,"deadline_s":null,"max_output_tokens":null},'
    b'"metadata":{},"confidence":1.0,"complexity":0.0,"reasons":[],"plan_approval":false,"charge":null}'
    b'{"key":"RES#1","created_ms":1760000002000,"text":"","error":null,"attempts":[{"engine":"gpt","model":'
    b'"gpt-5-mini","source":"api","purpose":"answer","started_ms":1760000001000,"duration_ms":1000,"tokens_in":10,'
    b'"tokens_out":20,"usage_estimated":false,"truncated":false,"fault":null,"tier":null,"why":"","cost_microusd":'
    b'300,"error":null}],"review":null,"fence":0}'
)
"""What every text begins and ends with, so that packing spells it out in none (RFC 1950: a preset dictionary).

Never to be changed: what was packed with it could not be read. Records may change, they are only packed less well; a
better frame is a second one, told apart by the checksum that zlib writes into what it packs.
"""


def split(ref: TaskRef, sk: str, text: str, until_ms: int | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A text as the item that holds its beginning and names its parts, and the parts.

    The parts are named after what they hold: of two workers that write the same record, neither overwrites parts of
    the other's, and the record that stays names its own.
    """
    key: dict[str, Any] = items.key(ref, sk) | ({} if until_ms is None else {"ttl": items.seconds(until_ms)})
    plain, content = key | {"body": {"S": text}}, text.encode()
    if _units([plain]) == 1:
        return plain, []
    rows = _packed(key, content)
    if len(content) <= PART_BYTES and _units([plain]) <= _units(rows):
        return plain, []
    return rows[0], rows[1:]


def joined(rows: Mapping[str, Mapping[str, Any]], sk: str) -> str:
    """The whole text of a record, from all rows of its partition by sort key."""
    bodies = [rows[name]["body"] for name in (sk, *_parts(rows[sk]))]
    if "B" in bodies[0]:
        return zlib.decompressobj(zdict=FRAME).decompress(b"".join(body["B"] for body in bodies)).decode()
    return "".join(body["S"] for body in bodies)


def is_whole(rows: Mapping[str, Mapping[str, Any]], sk: str) -> bool:
    """Whether a record is there with all its parts: its time to live takes each item by itself."""
    return sk in rows and all(name in rows for name in _parts(rows[sk]))


def is_part(sk: str) -> bool:
    return "~" in sk


def _parts(row: Mapping[str, Any]) -> list[str]:
    """The sort keys of a record's parts, in order."""
    return [part["S"] for part in row.get("parts", {"L": []})["L"]]


def _packed(key: dict[str, Any], content: bytes) -> list[dict[str, Any]]:
    compressor = zlib.compressobj(zdict=FRAME)
    packed = compressor.compress(content) + compressor.flush()
    first, *others = (packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES))
    head = key | {"body": {"B": first}}
    if not others:
        return [head]
    name = f"{key['sk']['S']}~{sha256(packed).hexdigest()[:16]}"
    parts = [key | {"sk": {"S": f"{name}#{n}"}, "body": {"B": part}} for n, part in enumerate(others)]
    return [head | {"parts": {"L": [part["sk"] for part in parts]}}, *parts]


def _units(rows: Iterable[Mapping[str, Any]]) -> int:
    """Write units of items of ours, by their size.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(-(-sum(len(name) + _size(value) for name, value in row.items()) // UNIT_BYTES) for row in rows)


def _size(value: Mapping[str, Any]) -> int:
    """Bytes of a value: a string in UTF-8, a number half a byte a digit and one, a list's elements and a little."""
    ((kind, content),) = value.items()
    if kind == "L":
        return 3 + sum(1 + _size(each) for each in content)
    return len(content) // 2 + 2 if kind == "N" else len(content if kind == "B" else content.encode())
