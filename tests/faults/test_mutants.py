"""The seeded bugs fit the current code; one whose code has moved would not be tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_bug_stands_for_one_place(mutant: Mutant) -> None:
    """`make mutants` takes a quarter of an hour; this test takes none."""
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new


def test_the_documentation_names_the_number_of_seeded_bugs() -> None:
    """A bug that is added must be measured."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(r"\| seeded bugs .*\| (\d+) of (\d+)", text)

    assert found
    assert [int(number) for number in found.groups()] == [len(MUTANTS)] * 2
