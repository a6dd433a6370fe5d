"""The README shows what a new user gets."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from llm_server import catalog_loading
from llm_server.settings import Settings
from support.server_process import serving

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shown(key: str) -> list[Any]:
    """Return the JSON documents in the README that begin with a key."""
    return [json.loads(line) for line in README.splitlines() if line.startswith(f'{{"{key}"')]


def asked() -> list[Any]:
    """Return the bodies of the curl commands in the README."""
    return [json.loads(body) for body in re.findall(r"-d '(.+?)'", README)]


def test_the_first_calls_answer_as_shown(tmp_path: Path) -> None:
    first, second = asked()
    with serving(tmp_path / "tasks.db") as server:
        answers = server.submit(**first, wait_s=20), server.submit(**second)
        task = server.finished(answers[1]["task_id"])
        metrics = server.call("GET", "/metrics").json()

    for answer, document in zip(answers, shown("task_id"), strict=True):
        assert answer | {"task_id": None} == document | {"task_id": None}
    assert task["plan"]
    assert task["attempts"]
    [figures] = shown("server_status")
    assert metrics.keys() == figures.keys()
    assert {n: v for n, v in metrics.items() if n not in ("tokens_per_second", "average_response_time")} == {
        n: v for n, v in figures.items() if n not in ("tokens_per_second", "average_response_time")
    }


def test_the_engine_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    [toml] = re.findall(r"```toml\n(.+?)```", README, re.DOTALL)
    path = tmp_path / "engines.toml"
    path.write_text(toml)
    catalog = catalog_loading.load_catalog(Settings(config=path)).catalog

    assert set(tomllib.loads(toml)["engines"]) < set(catalog.engines)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
