"""Where the tools are that pin other versions than ours and so live in environments of their own."""

from __future__ import annotations

import sys
from pathlib import Path

_VENV = Path(__file__).resolve().parents[2] / ".venv"


class ToolMissing(Exception):
    """A tool's environment has not been made, or the tool in it does not start."""


def tool(environment: str, name: str) -> Path:
    """Find an executable of `ministack`, `sam` or `docs`.

    Raises:
        ToolMissing: that environment does not exist; the sentence says how to make it.
    """
    for venv in (Path(sys.prefix), _VENV):
        executable = venv / environment / "bin" / name
        if executable.exists():
            return executable
    raise ToolMissing(f"{name} is not in .venv/{environment}; `make test` puts it there.")
