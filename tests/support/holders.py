"""Other processes that hold a database file, as another server does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = str(Path(__file__).parents[2] / "src")


@contextmanager
def holding(program: str, path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that takes a file and prints "held" once it has it; it is killed at the end."""
    command = [sys.executable, "-c", program, str(path), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": SOURCE}
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()
