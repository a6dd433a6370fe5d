"""`make aws-local` without Docker: the whole AWS path in one process with an emulator, and a clean stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import canaries

ROOT = Path(__file__).parents[2]
OF_EVENTS = 6
"""The tasks that the files in `events/` name; they are in the table from the start."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_SERVER_", "AWS_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "aws_local", "--gateway", "--port", "0"],
        env=kept | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tools'}"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    printed, _ = process.communicate()
    canaries.check(re.sub(r"Bearer llms_\w+", "", printed))  # the printed example command contains the key on purpose


def addresses(server: subprocess.Popen[str]) -> tuple[str, str, str]:
    """Read the output up to the server's address; return the emulator's address, the server's, and the key."""
    assert server.stdout is not None
    printed = ""
    for line in server.stdout:
        printed += line
        if found := re.search(r"handler serves (http://\S+)", line):
            emulator = re.search(r"emulator\s+(http://\S+)", printed)
            key = re.search(r"API key\s+(llms_\S+)", printed)
            assert emulator is not None
            assert key is not None
            return emulator[1], found[1], key[1]
    raise AssertionError(f"It ended with {server.wait()} and said: {printed}")


def ask(url: str, key: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url,
        data=body and json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Prefer": "wait=20", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_prompt_goes_through_both_functions(server: subprocess.Popen[str], tmp_path: Path) -> None:
    emulator, url, key = addresses(server)
    task = ask(f"{url}/api/v1/tasks", key, {"prompt": "Say hello."})
    metrics = ask(f"{url}/api/v1/metrics", key)
    variables = json.loads((tmp_path / ".llm-server/sam-env.json").read_text(encoding="utf-8"))["Parameters"]
    server.send_signal(signal.SIGTERM)

    assert task["status"] == "Completed"
    assert metrics["total_requests"] == 1 + OF_EVENTS
    assert variables["AWS_ENDPOINT_URL"] == emulator.replace("127.0.0.1", "host.docker.internal")
    assert server.wait(20) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(emulator.rpartition(":")[2]))) != 0
