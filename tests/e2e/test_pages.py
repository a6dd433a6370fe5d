"""The examples of the README and of docs work as typed, each after the one before it, and answer as shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.typed_page import Reader


@pytest.mark.parametrize("page", ["README.md", "docs/modes.md", "docs/plans.md", "docs/tasks.md"])
def test_a_page_works_as_typed(page: str, tmp_path: Path) -> None:
    with Reader(folder=tmp_path) as reader:
        typed = reader.read(page)

    assert len(typed) > 3
