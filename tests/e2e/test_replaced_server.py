"""`serve --replace` takes over the database and the port of a server that runs, as `make run MODEL=...` does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.server_process import serving

ROOT = Path(__file__).parents[2]


def test_a_server_is_replaced_by_a_new_one_on_its_port(tmp_path: Path) -> None:
    """Its tasks are in the database of the new one."""
    with serving(tmp_path / "tasks.db") as old:
        task = old.submit("Say hello.", wait_s=20)
        port = old.url.rpartition(":")[2]
        with serving(tmp_path / "tasks.db", "--port", port, "--replace") as new:
            found = new.call("GET", f"/tasks/{task['task_id']}").json()

            assert old.process.wait(10) == 0
            assert new.url == old.url
    assert found["result"] == task["result"]


def test_without_a_running_server_nothing_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "tasks.db", "--replace") as server:
        assert server.call("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (
            ["MODEL=qwen2.5-1.5b"],
            [
                ".venv/bin/llm-server models pull qwen2.5-1.5b",
                "LLM_SERVER_MODEL=qwen2.5-1.5b exec .venv/bin/llm-server serve --port 8000 --replace",
            ],
        ),
        (["LOCAL=0"], ["LLM_SERVER_MODEL=${LLM_SERVER_MODEL:-none} exec .venv/bin/llm-server serve --port 8000"]),
    ],
)
def test_make_run_with_a_model_or_without_any(arguments: list[str], commands: list[str]) -> None:
    """A better model is one command. With LOCAL=0 the demonstration model is neither installed nor used."""
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert printed.splitlines()[-len(commands) :] == commands
    assert "requirements/demonstration.txt" not in printed
