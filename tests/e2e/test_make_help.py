"""`make help` lists the targets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_help_lists_every_target_with_its_comment() -> None:
    """The targets are those that .PHONY names; files that make builds are not listed."""
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert sorted(lines) == sorted(phony.split())
    assert lines["check"] == "Run the checks and the tests"
