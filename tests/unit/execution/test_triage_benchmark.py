"""The benchmark of triage counts what it says, on a file of predictions that was made for the test."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from benchmarks import triage

from support.scripted_engine import a_catalog

CATALOG = a_catalog({})
RIGHT = {"role": "Writing-Agent", "confidence": 0.9, "ok_roles": ["Writing"], "prompt": 100}
WRONG = {"role": "Chat-Agent", "confidence": 0.4, "ok_roles": ["Coder"], "prompt": 300}


def made(folder: Path, *rows: object) -> list[triage.Prediction]:
    path = folder / "predictions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return triage.predictions(path)


def test_only_prompts_below_the_threshold_are_asked_about(tmp_path: Path) -> None:
    rows = made(tmp_path, RIGHT, RIGHT, RIGHT, WRONG)
    none, some, all_ = (triage.measure(rows, threshold, CATALOG) for threshold in (0.4, 0.5, 1.01))

    assert [found.asked for found in (none, some, all_)] == [0, 0.25, 1]
    assert (none.before, none.fallback, none.after) == (0.75, 0.75, 0.75)
    assert (all_.before, all_.fallback) == (0.75, 0), "Chat-Agent fits none of them"


def test_the_engine_is_right_in_nine_of_ten_cases(tmp_path: Path) -> None:
    """The seed makes the figure the same in every run."""
    rows = made(tmp_path, *[WRONG] * 2_000)
    found = triage.measure(rows, 0.5, CATALOG)

    assert found.after == pytest.approx(triage.ACCURACY, abs=0.02)
    assert triage.measure(rows, 0.5, CATALOG) == found


def test_a_plan_and_every_family_of_roles_can_be_answered(tmp_path: Path) -> None:
    labels = ["Planner", "Coder", "Writing", "Chat-Agent", "Debug-Agent", "Research"]
    rows = made(tmp_path, *[WRONG | {"ok_roles": [label]} for label in labels for _ in range(200)])

    assert triage.measure(rows, 0.5, CATALOG).after > 0.85


def test_the_table_shows_the_price_of_each_small_model(tmp_path: Path) -> None:
    """600 tokens and 60 more, about a quarter of the prompts: some cents for 1,000 prompts."""
    lines = list(triage.report(made(tmp_path, RIGHT, RIGHT, RIGHT, WRONG)))
    at_half = next(line.split() for line in lines if line.startswith("     0.50") or line.lstrip().startswith("0.50"))
    costs = [float(cell) for cell, unit in pairwise(at_half) if unit == "USD"]

    assert at_half[1] == "25.0%"
    assert len(costs) == len(triage.SMALL_MODELS)
    assert all(0.01 < cost < 0.5 for cost in costs)


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    triage.run(tmp_path / "absent.jsonl")

    assert "absent.jsonl is missing" in capsys.readouterr().out
