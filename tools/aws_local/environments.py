"""Find the tools that have virtual environments of their own, because they need other versions of our packages."""

from __future__ import annotations

import sys
from pathlib import Path

_VENV = Path(__file__).resolve().parents[2] / ".venv"


class ToolMissing(Exception):
    """A tool's environment does not exist, or the tool in it does not start or cannot listen."""


def tool(environment: str, name: str) -> Path:
    """Return the path of an executable in the environment `ministack`, `sam`, `docs`, `clients` or `hosting`.

    Raises:
        ToolMissing: the executable does not exist; the message says how to install it.
    """
    for venv in (Path(sys.prefix), _VENV):
        executable = venv / environment / "bin" / name
        if executable.exists():
            return executable
    raise ToolMissing(f"{name} is not in .venv/{environment}; `make test` installs it.")
