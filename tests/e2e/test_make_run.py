"""What `make run` would install and start: `make -n -B` prints the commands of every step, and runs none of them."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from llm_server.engines.discovery import LOOPBACK_SERVERS

ROOT = Path(__file__).parents[2]


def answers(port: int) -> bool:
    """Return whether a program listens on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def planned(*arguments: str, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLM_SERVER_")}
    return subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", "run", *arguments],
        cwd=ROOT,
        env={name: value for name, value in kept.items() if not name.endswith("_API_KEY")} | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("arguments", "commands", "has_llamacpp"),
    [
        (
            ["MODEL=qwen2.5-1.5b"],
            [
                ".venv/bin/llm-server models pull qwen2.5-1.5b",
                "LLM_SERVER_MODEL=qwen2.5-1.5b exec .venv/bin/llm-server serve --port 8000 --replace",
            ],
            True,
        ),
        (
            ["LOCAL=0"],
            ["LLM_SERVER_MODEL=${LLM_SERVER_MODEL:-none} exec .venv/bin/llm-server serve --port 8000"],
            False,
        ),
    ],
)
def test_make_run_with_a_model_or_without_any(arguments: list[str], commands: list[str], has_llamacpp: bool) -> None:
    """A better model is one command. With LOCAL=0 the demonstration model is neither installed nor used."""
    printed = planned(*arguments)

    assert printed.splitlines()[-len(commands) :] == commands
    assert ("requirements/local.txt" in printed) is has_llamacpp
    assert "requirements/demonstration.txt" not in printed


@pytest.mark.parametrize(
    ("variables", "is_installed"),
    [({}, True), ({"OPENAI_API_KEY": "k"}, False), ({"LLM_SERVER_MODEL": "none"}, False), ({"MODEL": "m"}, True)],
)
def test_the_demonstration_model_is_installed_only_where_nothing_else_answers(
    variables: dict[str, str], is_installed: bool
) -> None:
    """make runs the search for an engine even with -n, because its line may call make again.

    A variable of the shell with the name MODEL, which other programs use too, changes nothing.
    """
    if is_installed and any(answers(server.port) for server in LOOPBACK_SERVERS):
        pytest.skip("an LLM server runs on this machine")
    printed = planned(**variables)

    assert ("requirements/demonstration.txt" in printed) is is_installed
    assert printed.splitlines()[-1] == "exec .venv/bin/llm-server serve --port 8000"
