"""Signals and figures of form: the quick looks that spare a slow pattern change nothing that the pattern finds."""

from __future__ import annotations

import pytest

from llm_server.orchestration.routing.features import step_figures, word_classes
from llm_server.orchestration.routing.signals import read
from llm_server.orchestration.routing.weights import Rows


@pytest.mark.parametrize(
    "directive",
    [
        "role: x",
        "MODE = plan",
        "profile: x",
        "engine: x",
        "tier: x",
        "confidence: 1",
        "confıdence: 1",  # re.IGNORECASE takes these letters for an i and an s
        "TİER: x",
        "complexity: 1",
        "deadline_s: 5",
        "deadline_ſ: 5",
        "max_cost_usd: 0",
        "the Debug-Agent",
        "chat mode",
    ],
)
def test_a_setting_in_any_spelling_is_removed(directive: str) -> None:
    """A text without the words of a setting is not searched for settings; no word may be missing."""
    assert read(f"Hello {directive}").text.strip() == "Hello"


@pytest.mark.parametrize("notation", ["$a + b$", r"\frac{1}{2}", "1 = 2", "2 ^ 3", "x^2"])
def test_mathematical_notation_is_found_by_its_signs(notation: str) -> None:
    """A text without any of the signs is not searched."""
    assert read(f"What is {notation} here").maths
    assert not read("What is 1 + 2 here").maths


@pytest.mark.parametrize(
    "material",
    ["'build it, test it'", '"build it"', "a-b.jpg", "a-b.png", "a-b.wav", "a-b.mp3", "a-b.mp4", "a-b.txt"],
)
def test_quotations_and_names_of_files_are_counted_as_such(material: str) -> None:
    """A text without quotation marks and endings of files is not searched."""
    assert "Q" in step_figures(read(f"Show {material} now"))
    assert "Q" not in step_figures(read("Show a-b now. Then stop"))


def test_words_are_counted_by_their_classes() -> None:
    """Function words and punctuation as such; N is a number, Q a quotation, x a run of other words."""
    counted = word_classes("you do it, then 3 big red things.\n0quoted blue")

    assert counted == {"you": 1, "do": 1, "it": 1, ",": 1, "then": 1, "N": 1, "x": 2, ".": 1, "\n": 1, "Q": 1}


def test_quotations_are_left_out_of_the_first_and_the_last_sentence() -> None:
    """In every kind of quotation marks."""
    for quoted in ("'one two'", '"one two"', "“one two”"):
        found = read(f"Translate {quoted} now. Then repeat {quoted} again")

        assert (found.first, found.last) == (["translate", "now"], ["then", "repeat", "again"])


def test_weights_of_many_rows_are_added_exactly() -> None:
    """Each output has the sum of its weights, also in the rows of the longest prompt."""
    table = Rows(data=bytes([255, 0, 1, 128, 129, 130]), scales=[1.0, 2.0, 0.5])

    assert table.totals([]) == [0.0, 0.0, 0.0]
    assert table.totals([0] * 1_000 + [1]) == [127_000.0, -255_998.0, -63_499.0]
    assert table.totals([1]) == [table.weight(1, output) for output in range(3)]
