"""What is shown of a streamed text: all of the answer, as early as possible, and nothing of what ends it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_server.engines.streams.shown_text import ShownText, end_of
from llm_server.orchestration.domain.engines.catalog import EngineSpec


def spec(*stops: str, small: bool = False) -> EngineSpec:
    return EngineSpec(kind="openai", source="local", model="m", base_url="http://x", stop=stops, small=small)


def shown(pieces: list[str], of: EngineSpec) -> tuple[list[str], str]:
    """Return what was shown, and the text of the completion."""
    seen = list[str]()
    text = ShownText(of, seen.append)
    for piece in pieces:
        text.take(piece)
    whole = "".join(pieces)
    completed = whole[: end_of(whole, of)]
    text.finish(completed)
    return seen, completed


@given(
    pieces=st.lists(st.text("ab<>s/|", max_size=5), max_size=12),
    stops=st.lists(st.text("ab<>|", min_size=1, max_size=4), max_size=3),
    small=st.booleans(),
)
@example(pieces=["xa", "b", "y"], stops=["ab", "xaby"], small=False)
@example(pieces=["<s>a</", "s>b<", "/s>"], stops=[], small=True)
@example(pieces=["</s", "></s>"], stops=["</s></s>"], small=True)
def test_the_pieces_are_the_text(pieces: list[str], stops: list[str], small: bool) -> None:
    seen, completed = shown(pieces, spec(*stops, small=small))

    assert "".join(seen) == completed
    assert all(seen)


def test_without_texts_that_end_an_answer_nothing_is_held_back() -> None:
    pieces = ["<", "|im_", "</s", ">"]

    assert shown(pieces, spec())[0] == pieces


@pytest.mark.parametrize(
    ("pieces", "seen"),
    [
        (["One. ", "EN", "x"], ["One. ", "ENx"]),
        (["One. EN", "D two", " three"], ["One. "]),
        (["One. E", "E", "N"], ["One. ", "E", "EN"]),
        (["END"], []),
    ],
)
def test_only_a_tail_that_may_end_the_answer_waits(pieces: list[str], seen: list[str]) -> None:
    assert shown(pieces, spec("END"))[0] == seen


def test_a_closed_html_tag_is_no_end() -> None:
    pieces = ["<s>9", "</", "s> 7 </s", "> euros"]

    assert shown(pieces, spec(small=True))[1] == "".join(pieces)
