"""The body of an HTTP answer is decoded wherever its pieces begin and end, and a body that is not whole is refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.engines.streams.http_body import MAX_LINE_BYTES, Body
from llm_server.orchestration.domain.errors import EngineUnavailable

CHUNKS = b"5\r\nhello\r\n1;name=value\r\n,\r\n0A \r\n wor\r\nld\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
CONTENT = b"hello, wor\r\nld\r\n"


def decoded(body: Body, *pieces: bytes) -> bytes:
    return b"".join(map(body.feed, pieces))


@given(cuts=st.lists(st.integers(0, len(CHUNKS)), max_size=8))
def test_chunks_may_come_in_any_pieces(cuts: list[int]) -> None:
    body, at = Body(chunked=True, length=None), sorted({0, len(CHUNKS), *cuts})
    pieces = [CHUNKS[start:end] for start, end in pairwise(at)]

    assert decoded(body, *pieces) == CONTENT
    assert (body.is_over, body.has_more) == (True, False)


def test_each_byte_of_chunks_may_come_alone() -> None:
    body = Body(chunked=True, length=None)

    assert decoded(body, *(bytes([byte]) for byte in CHUNKS)) == CONTENT
    assert body.is_over


def test_bare_line_feeds_are_accepted() -> None:
    """Some small servers send them; RFC 9112, 2.2 allows to accept them."""
    assert decoded(Body(chunked=True, length=None), b"2\nok\n0\n\n") == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"no size\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"1_0\r\nhello\r\n",
        b"11111111111111111\r\n",
        b"5\r\nhello world\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_chunks_that_are_not_valid_are_no_answer(data: bytes) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        decoded(Body(chunked=True, length=None), data)

    assert caught.value.may_be_billed


@pytest.mark.parametrize("end", [0, 1, 3, 6, 8, 10, 12, 40])
def test_chunks_that_end_early_are_no_answer(end: int) -> None:
    body = Body(chunked=True, length=None)
    decoded(body, *filter(None, [CHUNKS[:end]]))

    with pytest.raises(EngineUnavailable):
        body.feed(b"")


def test_a_trailer_may_be_missing() -> None:
    body = Body(chunked=True, length=None)

    assert decoded(body, b"2\r\nok\r\n0\r\n", b"") == b"ok"
    assert body.is_over


def test_a_body_of_a_known_length_ends_there() -> None:
    body = Body(chunked=False, length=5)

    assert decoded(body, b"he", b"llo") == b"hello"
    assert (body.is_over, body.has_more) == (True, False)


def test_a_body_shorter_than_its_length_is_no_answer() -> None:
    body = Body(chunked=False, length=5)
    body.feed(b"hell")

    with pytest.raises(EngineUnavailable):
        body.feed(b"")


def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    body = Body(chunked=False, length=None)

    assert decoded(body, b"hel", b"lo") == b"hello"
    assert not body.is_over
    assert body.feed(b"") == b""
    assert body.is_over


@pytest.mark.parametrize("body", [Body(chunked=False, length=5), Body(chunked=True, length=None)])
def test_bytes_after_the_body_are_noticed(body: Body) -> None:
    data = b"5\r\nhello\r\n0\r\n\r\n" if body._chunked else b"hello"

    assert body.feed(data + b"HTTP/1.1") == b"hello"
    assert (body.is_over, body.has_more) == (True, True)


def test_an_empty_body_is_over_at_once() -> None:
    assert Body(chunked=False, length=0).is_over
    assert not Body(chunked=True, length=None).is_over
