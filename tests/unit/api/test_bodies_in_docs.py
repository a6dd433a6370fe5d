"""Every JSON body in the documentation is valid under the HTTP contract."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

DOCS = Path(__file__).parents[3] / "docs"
CONTRACT: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
SENT = re.compile(r"curl\b[^\n]*?(/api/v1/[\w/{}$-]+)[^\n]*? -d '(\{.*?\})'")


def sent() -> list[tuple[str, str, str, str]]:
    """Return page, method, path and body of each curl command that sends a body."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if call := SENT.search(line):
                method = re.search(r"-X (\w+)", line)
                found.append((page.name, method[1].lower() if method else "post", call[1], call[2]))
    return found


def schema_of(method: str, path: str) -> dict[str, Any]:
    """Return the schema of a call's body in the contract."""
    for template, operations in CONTRACT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method in operations:
            body: dict[str, Any] = operations[method]["requestBody"]["content"]["application/json"]["schema"]
            return body | {"components": CONTRACT["components"]}
    raise AssertionError(f"{method} {path} is not in the contract")


def test_the_pages_with_bodies_are_found() -> None:
    assert {"README.md", "aws.md", "engines.md", "first-steps.md", "modes.md", "plans.md", "tasks.md"} <= {
        page for page, *_ in sent()
    }


@pytest.mark.parametrize(("page", "method", "path", "body"), sent())
def test_a_body_in_the_docs_is_valid(page: str, method: str, path: str, body: str) -> None:
    jsonschema.validate(json.loads(body), schema_of(method, path))
