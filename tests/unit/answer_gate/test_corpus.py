"""The answer gate on the pairs of data/answer_gate: exact verdicts on those it was tuned on, floors on the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate_figures import CHECKS, Figures, Judged, Pair, figures, judged, pairs, table

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"

MIN_PAIRS, MIN_FAULTS = 400, 0.4
MIN_PRECISION, MIN_RECALL = 0.89, 0.84
"""What the gate reached on the held-out pairs, less one pair."""

TUNED, HELD_OUT = pairs("tuned"), pairs("held_out")


@pytest.mark.parametrize("pair", TUNED, ids=lambda pair: f"{pair.language}: {pair.note}"[:60])
def test_each_pair_that_the_gate_was_tuned_on_has_its_verdict(pair: Pair) -> None:
    result = judged(pair)

    assert result.found == pair.fault, result.fault


def test_pairs_that_the_gate_was_not_tuned_on_are_judged_about_as_well() -> None:
    """A check that only fits the tuned pairs lowers these figures."""
    reached = figures([judged(pair) for pair in HELD_OUT], CHECKS)

    assert reached.precision >= MIN_PRECISION
    assert reached.recall >= MIN_RECALL


def test_the_docs_have_the_figures() -> None:
    """The table is what `tools/gate_figures.py` prints."""
    rows = table([judged(pair) for pair in TUNED], [judged(pair) for pair in HELD_OUT])

    assert "\n".join(rows) in DOCS.read_text(encoding="utf-8")


def test_the_corpus_has_enough_pairs_of_each_kind() -> None:
    """Two in five have a fault, a third is held out, and no pair is in it twice."""
    both = [*TUNED, *HELD_OUT]

    assert len(both) >= MIN_PAIRS
    assert len({(pair.prompt, pair.answer) for pair in both}) == len(both)
    assert sum(pair.fault is not None for pair in both) >= MIN_FAULTS * len(both)
    assert len(HELD_OUT) >= len(both) / 3
    assert {pair.fault for pair in both} == {None, *CHECKS}
    assert {pair.language for pair in both} == {"en", "de", "fr", "es", "ru", "ja", "zh"}


def test_figures_count_each_fault_and_each_false_alarm() -> None:
    """Without any report precision is 1, and without any fault recall is."""

    def a_result(fault: str | None, found: str | None) -> Judged:
        return Judged(Pair(fault=fault, language="en", prompt="p", answer="a", note="n"), found, found)

    results = [a_result("code", "code"), a_result("code", None), a_result(None, "code"), a_result("json", "code")]

    assert figures(results, ["code"]) == Figures(faults=2, found=1, false_alarms=2)
    assert figures(results, CHECKS) == Figures(faults=3, found=2, false_alarms=1)
    assert (figures(results, ["code"]).precision, figures(results, ["code"]).recall) == (1 / 3, 0.5)
    assert (figures([], CHECKS).precision, figures([], CHECKS).recall) == (1.0, 1.0)
