"""The parser of server-sent events: what the standard says, wherever the pieces of the stream begin and end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.engines.streams.sse import EventParser, ServerSentEvent


def parsed(*pieces: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"event: ping\ndata: {}\n\n", [("ping", "{}")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("message", "a"), ("message", "b")]),
        (b"data: a\r\rdata: b\r\r", [("message", "a"), ("message", "b")]),
        (b"data: a\ndata: b\ndata\ndata:\n\n", [("message", "a\nb\n\n")]),
        (b"data:a\n\ndata:  b\n\n", [("message", "a"), ("message", " b")]),
        (b"data: a: b\n\n", [("message", "a: b")]),
        (b": comment\n\n:\n\ndata: a\n: more\n\n", [("message", "a")]),
        (b"id: 7\nretry: 9\nother: x\ndata: a\nDATA: no\n\n", [("message", "a")]),
        (b"event: lost\n\ndata: a\n\n", [("message", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a")]),
        (b"data: [DONE]\n\n", [("message", "[DONE]")]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"", []),
        ("data: é🧪\u2028\x0b\x85\n\n".encode(), [("message", "é🧪\u2028\x0b\x85")]),
    ],
)
def test_a_stream_is_read_as_the_standard_says(stream: bytes, events: list[tuple[str, str]]) -> None:
    assert parsed(stream) == events
    assert parsed(*(stream[at : at + 1] for at in range(len(stream)))) == events


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        parsed(b"data: \xff\n\n")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@given(
    events=st.lists(st.tuples(TEXTS.filter(bool), st.lists(TEXTS, min_size=1, max_size=3))),
    line_end=st.sampled_from(["\n", "\r", "\r\n"]),
    data=st.data(),
)
def test_where_the_stream_is_cut_makes_no_difference(
    events: list[tuple[str, list[str]]], line_end: str, data: st.DataObject
) -> None:
    """Also within a line end, and within a character."""
    lines = [[f"event: {name}", *(f"data: {text}" for text in texts), ""] for name, texts in events]
    stream = "".join(line + line_end for each in lines for line in each).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))

    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert parsed(*pieces) == [(name, "\n".join(texts)) for name, texts in events]


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    try:
        whole = parsed(b"".join(pieces))
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            parsed(*pieces)
    else:
        assert parsed(*pieces) == whole


def test_a_line_of_sixteen_megabytes_in_small_pieces_is_read_in_time() -> None:
    """Joining what has come at each piece would copy 16 GB."""
    piece = b"x" * 8_192

    [event] = parsed(b"data: ", *[piece] * 2_048, b"\n\n")

    assert len(event.data) == 2_048 * 8_192
