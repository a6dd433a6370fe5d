"""`llm-server models`: what is printed on which stream, and the exit codes; each test has its own cache."""

from __future__ import annotations

import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_server.engines.local.model_files import part_of, path_of
from support.model_server import Handling, ModelServer, model_server, status

COMMAND = [sys.executable, "-c", "from llm_server.cli.app import app; app(prog_name='llm-server')", "models"]
DATA = b"GGUF" + random.Random(2).randbytes(800_000)
ENTRY = """
[models.tiny]
url = "{model.url}"
sha256 = "{model.sha256}"
size_bytes = {model.size_bytes}
licence = "MIT"
context = 1024
"""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server(DATA) as served:
        yield served


def environment(server: ModelServer, folder: Path) -> dict[str, str]:
    config = folder / "models.toml"
    config.write_text(ENTRY.format(model=server.model()))
    ours = {"XDG_CACHE_HOME": str(folder / "cache"), "LLM_SERVER_CONFIG": str(config), "TERM": "xterm-256color"}
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LLM_SERVER_")}, **ours}


def run(server: ModelServer, folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = environment(server, folder)
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=60, **options)


def models_dir(folder: Path) -> Path:
    return folder / "cache" / "llm-server" / "models"


def test_a_pull_prints_only_the_path_on_stdout(server: ModelServer, tmp_path: Path) -> None:
    """The model's description, its source and how to use it are on stderr."""
    result = run(server, tmp_path, "pull", "tiny")
    path = path_of("tiny", server.model(), models_dir(tmp_path))

    assert (result.returncode, result.stdout) == (0, f"{path}\n")
    assert path.read_bytes() == DATA
    assert f"tiny: 1 MB, MIT, from {server.url}/model.gguf" in result.stderr
    assert "make run MODEL=tiny, or LLM_SERVER_MODEL=tiny llm-server serve" in result.stderr


def test_the_list_shows_which_models_are_pulled(server: ModelServer, tmp_path: Path) -> None:
    """Completely, partly or not at all; listing downloads nothing."""
    part = part_of("tiny", server.model(), models_dir(tmp_path))
    before = run(server, tmp_path, "list")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[: len(DATA) // 2])
    half = run(server, tmp_path, "list")
    run(server, tmp_path, "pull", "tiny")
    after = run(server, tmp_path, "list")

    states = [_state(result.stdout) for result in (before, half, after)]
    assert states == ["not pulled", "50 % pulled", "pulled"]
    assert "qwen2.5-1.5b          1,117 MB  Apache-2.0     not pulled" in before.stdout
    assert str(models_dir(tmp_path)) in before.stderr
    assert server.asked == [f"bytes={len(DATA) // 2}-"]


def test_a_pull_without_a_name_lists_the_models_and_the_demonstration_model_first(
    server: ModelServer, tmp_path: Path
) -> None:
    listed, without_name = (run(server, tmp_path, command) for command in ("list", "pull"))

    assert (without_name.returncode, without_name.stdout) == (0, listed.stdout)
    assert re.match(r"smollm2-135m +98 MB  Apache-2.0 +\S.* \(demonstration: often wrong\)\n", listed.stdout)
    assert not server.asked


def test_a_model_in_an_installed_package_is_not_downloaded(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "tiny.gguf").write_bytes(DATA)
    entry = ENTRY.format(model=server.model()) + 'packaged = "a_package/tiny.gguf"\n'
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = environment(server, tmp_path) | {"PYTHONPATH": os.pathsep.join(paths)}
    (tmp_path / "models.toml").write_text(entry)
    pulled, listed = (
        subprocess.run([*COMMAND, *words], env=env, capture_output=True, text=True, timeout=60)
        for words in (["pull", "tiny"], ["list"])
    )

    assert pulled.stdout == f"{tmp_path / 'a_package' / 'tiny.gguf'}\n"
    assert _state(listed.stdout) == "installed"
    assert not server.asked


def test_an_unknown_model_is_refused_with_the_known_ones(server: ModelServer, tmp_path: Path) -> None:
    result = run(server, tmp_path, "pull", "gpt-9")

    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr == "Unknown model 'gpt-9'; known are qwen2.5-0.5b, qwen2.5-1.5b, qwen3-4b, smollm2-135m, tiny.\n"
    )


def test_a_failed_download_prints_one_sentence(server: ModelServer, tmp_path: Path) -> None:
    server.always = status(404)
    result = run(server, tmp_path, "pull", "tiny")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[1:] == ["tiny cannot be fetched: the server answered HTTP 404."]


def test_a_full_disk_keeps_the_downloaded_part(server: ModelServer, tmp_path: Path) -> None:
    """Simulated by a limit on the size of files that the process may write."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    result = run(server, tmp_path, "pull", "tiny", preexec_fn=limited)
    kept = part_of("tiny", server.model(), models_dir(tmp_path)).stat().st_size

    assert result.returncode == 1
    assert "cannot be stored" in result.stderr
    assert "the downloaded part is kept" in result.stderr
    assert "Traceback" not in result.stderr
    assert 0 < kept <= 300_000
    assert run(server, tmp_path, "pull", "tiny").returncode == 0
    assert server.asked[1] == f"bytes={kept}-"


def test_ctrl_c_keeps_the_downloaded_part(server: ModelServer, tmp_path: Path) -> None:

    def slow(asked: Handling) -> None:
        asked.ranged(500_000)
        time.sleep(1.5)

    server.faults = [slow]
    part = part_of("tiny", server.model(), models_dir(tmp_path))
    env = environment(server, tmp_path)
    with subprocess.Popen([*COMMAND, "pull", "tiny"], env=env, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "The part that was downloaded is kept" in said
    assert run(server, tmp_path, "pull", "tiny").returncode == 0


def test_a_terminal_shows_a_progress_bar(server: ModelServer, tmp_path: Path) -> None:
    """With size and speed."""
    master, terminal = pty.openpty()
    env = environment(server, tmp_path)
    with subprocess.Popen([*COMMAND, "pull", "tiny"], env=env, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b"".join(iter(lambda: _read(master), b"")).decode()
    os.close(master)

    assert process.returncode == 0
    assert "━━━" in shown
    assert "800.0/800.0 kB" in shown


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux reports the end of a terminal as an error
        return b""


def _state(printed: str) -> str:
    [line] = [line for line in printed.splitlines() if line.startswith("tiny ")]
    return line.partition("MIT")[2].strip()
