"""How texts become DynamoDB items: each comes back as it went in, and none costs more than it has to."""

from __future__ import annotations

import zlib
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage import records
from llm_server.storage.dynamodb import items, packing
from support.builders import a_request, an_output, noise, prose
from support.dynamodb_wire import size

REF = TaskRef("local", "01979f5e-7a3c-7b21-9c4d-5e6f708192a3")
TEXTS = st.builds(
    lambda text, length, seed, times: (text + noise(length, seed)) * times + text,
    st.text(),
    st.sampled_from([0, 300, 1_100, 5_000, 420_000, 900_000]),
    st.integers(0, 3),
    st.integers(1, 3),
)


def rows_of(text: str, until_ms: int | None = None) -> dict[str, Any]:
    head, parts = packing.split(REF, "RES#1", text, until_ms)
    return {row["sk"]["S"]: row for row in (head, *parts)}


def units(*rows: Any) -> int:
    return sum(ceil(size(row) / 1024) for row in rows)


@given(TEXTS, st.none() | st.integers(0, 10**13))
def test_every_text_comes_back_as_it_went_in(text: str, until_ms: int | None) -> None:
    rows = rows_of(text, until_ms)

    assert packing.joined(rows, "RES#1") == text
    assert all(size(row) < 400 * 1024 for row in rows.values())
    assert len({str(row.get("ttl")) for row in rows.values()}) == 1
    assert {sk for sk in rows if packing.is_part(sk)} == {*rows} - {"RES#1"}


@given(st.builds(lambda text, length: text + noise(length), st.text(max_size=2_000), st.integers(0, 6_000)))
def test_a_text_is_packed_when_and_only_when_that_saves_a_write_unit(text: str) -> None:
    [row] = rows_of(text).values()
    compressor = zlib.compressobj(zdict=packing.FRAME)
    packed = compressor.compress(text.encode()) + compressor.flush()
    plain_units, packed_units = (units(row | {"body": body}) for body in ({"S": text}, {"B": packed}))

    assert row["body"] == ({"B": packed} if packed_units < plain_units else {"S": text})


def test_a_text_that_was_stored_plain_is_read_beside_packed_ones() -> None:
    """Also one in parts."""
    head: Any = items.key(REF, "REQ") | {"body": {"S": "Say "}, "parts": {"L": [{"S": "REQ~1#0"}]}}
    part: Any = items.key(REF, "REQ~1#0") | {"body": {"S": "hello."}}
    rows = rows_of("a" * 5_000) | {"REQ": head, "REQ~1#0": part}

    assert packing.joined(rows, "REQ") == "Say hello."
    assert packing.joined(rows, "RES#1") == "a" * 5_000
    assert "B" in rows["RES#1"]["body"]


def test_what_was_packed_once_can_be_read_for_ever() -> None:
    """The frame is part of what is stored: a changed one reads nothing that is there already."""
    stored = bytes.fromhex("78bba4dcb9a6ab46a416a0e692541d851ca0dd454ab500751d08f0")

    assert packing.joined({"REQ": {"body": {"B": stored}}}, "REQ") == '{"prompt":"route, later"}'


def test_two_writers_of_one_record_keep_their_parts_apart() -> None:
    mine, theirs = rows_of(noise(900_000)), rows_of(noise(900_000, seed=1))

    assert set(mine) & set(theirs) == {"RES#1"}


@pytest.mark.parametrize(
    ("bytes_of_text", "max_units"), [(1_500, 1), (2_000, 2), (4_000, 2)], ids=["1.5 KB", "2 KB", "4 KB"]
)
def test_people_write_so_that_packing_halves_it(bytes_of_text: int, max_units: int) -> None:
    """As prompt and as answer, with the record round it, each of the texts that the analysis learns from."""
    texts = prose(bytes_of_text)
    written = [record for text in texts for record in (a_request(text), an_output(text=text))]

    assert len(texts) >= 3
    assert max(units(*rows_of(records.encode(record), until_ms=10**12).values()) for record in written) <= max_units
