"""A server of this version and its commands, on the database of an older version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.database_files import a_file_of_0_1_0, version
from support.server_process import serving

TOKEN = re.compile(r"llms_[0-9a-f]{12}_[0-9a-f]{64}\n")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return a_file_of_0_1_0(tmp_path)


def run(db: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_server", *arguments, "--db", str(db)]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(db.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=variables)


def migrated(db: Path) -> str:
    fields = f"database={db} from_version=1 to_version=5 backup={db}.v1.backup"
    return rf"\d\d:\d\d:\d\d WARNING database migrated {re.escape(fields)}\n"


def test_a_server_migrates_its_file_when_it_starts(old: Path) -> None:
    """It logs this once and continues with the stored tasks.

    Keys can be created meanwhile, without another migration.
    """
    with serving(old, env={"LLM_SERVER_KEEP_DAYS": "0"}) as server:
        made = run(old, "keys", "create", "--tenant", "acme", "--scope", "tasks")
        refused = run(old, "migrate")
        headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        task = server.call("GET", "/tasks/completed", headers=headers)
        said = server.log.read_text()

    assert len(re.findall(migrated(old), said)) == 1
    assert TOKEN.fullmatch(made.stdout)
    assert "migrated" not in made.stderr
    assert (refused.returncode, "in use by another server" in refused.stderr) == (2, True)
    assert (task.status, task.json()["status"]) == (200, "Completed")


def test_a_keys_command_migrates_the_file_and_logs_it(old: Path) -> None:
    """Only the key is on stdout."""
    made = run(old, "keys", "create", "--tenant", "acme")

    assert TOKEN.fullmatch(made.stdout)
    assert re.match(migrated(old), made.stderr)
    assert version(old) == 5
