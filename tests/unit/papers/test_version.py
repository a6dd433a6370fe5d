"""The version is written in one place, `llm_server.__version__`; all else reads or is generated from it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from llm_server import __version__

ROOT = Path(__file__).parents[3]
CHECKED = (
    "src",
    "tools",
    "layers",
    ".github",
    "pyproject.toml",
    "template.yaml",
    "samconfig.toml",
    "Makefile",
    "README.md",
)


def test_the_version_stands_in_one_place() -> None:
    """Pins of other packages do not count."""
    listed = subprocess.run(["git", "ls-files", *CHECKED], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [name for name in listed.stdout.splitlines() if not name.endswith((".txt", ".bin"))]
    version = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    found = [name for name in files if version.search((ROOT / name).read_text(encoding="utf-8"))]

    assert found == ["src/llm_server/__init__.py"]


def test_the_exported_document_has_the_version() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))

    assert document["info"]["version"] == __version__


def test_the_changelog_begins_with_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)

    assert next(name for name in sections if name != "Unreleased") == __version__
