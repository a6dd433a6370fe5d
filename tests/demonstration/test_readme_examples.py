"""The README shows what a new user gets: its examples, with the answers of the demonstration model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_server.embedded.server import EXAMPLE_PROMPT
from support.server_process import serving
from support.typed_page import Reader

pytestmark = pytest.mark.demonstration

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
NOTHING_SET = {"LLM_SERVER_MODEL": ""}


def shown(key: str) -> list[Any]:
    """Return the JSON documents in the README that begin with a key."""
    return [json.loads(line) for line in README.splitlines() if line.startswith(f'{{"{key}"')]


def asked() -> list[Any]:
    """Return the bodies of the curl commands in the README."""
    return [json.loads(body) for body in re.findall(r"-d '(.+?)'", README)]


def test_the_first_calls_answer_as_shown(tmp_path: Path) -> None:
    """At temperature 0 the same prompt gets the same answer. The greeting of the server shows the first prompt."""
    first, second = asked()
    with serving(tmp_path / "tasks.db", env=NOTHING_SET) as server:
        answers = server.submit(**first, wait_s=20), server.submit(**second)
        task = server.finished(answers[1]["task_id"])
        metrics = server.call("GET", "/metrics").json()

    for answer, document in zip(answers, shown("task_id"), strict=True):
        assert answer | {"task_id": None} == document | {"task_id": None}
    assert first["prompt"] == EXAMPLE_PROMPT
    assert task["plan"]
    assert task["attempts"]
    [figures] = shown("server_status")
    assert metrics.keys() == figures.keys()
    assert {n: v for n, v in metrics.items() if n not in ("tokens_per_second", "average_response_time")} == {
        n: v for n, v in figures.items() if n not in ("tokens_per_second", "average_response_time")
    }


def test_the_readme_works_as_typed(tmp_path: Path) -> None:
    with Reader(folder=tmp_path, env=NOTHING_SET) as reader:
        typed = reader.read("README.md")

    assert len(typed) > 8
