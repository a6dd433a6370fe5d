"""The examples in the docs work as typed, in order, and print what the pages show.

Those of the README are typed by tests/demonstration, with the demonstration model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import fake_engine
from support.typed_page import Reader

PLAN = {
    "goal": "A small cache in Python.",
    "steps": [
        {"id": "design", "role": "Architect-Agent", "instruction": "Design a small cache.", "depends_on": []},
        {
            "id": "code",
            "role": "Fast-Coder-Agent",
            "instruction": "Implement the design in Python.",
            "depends_on": ["design"],
        },
    ],
}
"""The plan that docs/first-steps.md shows."""


@pytest.mark.parametrize("page", ["docs/modes.md", "docs/plans.md", "docs/tasks.md", "docs/streams.md"])
def test_a_page_works_as_typed(page: str, tmp_path: Path) -> None:
    with Reader(folder=tmp_path) as reader:
        typed = reader.read(page)

    assert len(typed) > 3


def test_the_first_steps_work_as_typed_with_a_real_engine(tmp_path: Path) -> None:
    """A fake LLM server stands in for Ollama."""

    def answer(asked: Any) -> str:
        schema = json.dumps(asked.get("response_format", {}))
        if "steps" in schema:
            return json.dumps(PLAN)
        return json.dumps({"verdict": "pass", "findings": []}) if "verdict" in schema else "Because they can."

    with (
        fake_engine(answer=answer, models=("llama3.2",)) as ollama,
        Reader(folder=tmp_path, replaced={"http://localhost:11434/v1": ollama.base_url}) as reader,
    ):
        typed = reader.read("docs/first-steps.md")

    assert len(typed) > 10
    assert len(ollama.seen) > 5
