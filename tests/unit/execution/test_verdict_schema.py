"""The schema of verdicts that engines are held to allows what the parser keeps, and no more."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest

from llm_server.orchestration.execution.review import MAX_FINDING_CHARS, MAX_FINDINGS, parse, schema


@pytest.mark.parametrize(
    ("findings", "is_valid"),
    [
        (["x"], True),
        (["🧪" * MAX_FINDING_CHARS] * MAX_FINDINGS, True),
        (["x" * (MAX_FINDING_CHARS + 1)], False),
        (["x"] * (MAX_FINDINGS + 1), False),
    ],
    ids=["one", "most", "too long", "too many"],
)
def test_findings_beyond_the_schema_are_cut(findings: list[str], is_valid: bool) -> None:
    """An engine that obeys the schema writes no finding in vain."""
    verdict = {"verdict": "fail", "findings": findings}

    assert jsonschema_rs.is_valid(schema(), verdict) is is_valid
    assert (parse(json.dumps(verdict)).findings == tuple(findings)) is is_valid
