"""The embedded server may open more files and sockets than a shell allows by default."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from llm_server.embedded.open_files import allow_open_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "after"), [(64, 2048, (2048, 2048)), (512, 512, (512, 512))])
def test_the_soft_limit_is_raised_to_the_hard_limit_at_most(soft: int, hard: int, after: tuple[int, int]) -> None:
    """500 callers and 512 calls need more than the usual 1024."""
    source = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    printed = subprocess.run(command, env={"PYTHONPATH": source}, check=True, capture_output=True, text=True).stdout

    assert tuple(map(int, printed.split())) == after
