"""The hooks before a commit are the tools of `make lint`, and the editor's settings agree with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / ".pre-commit-config.yaml"
VENV = Path(sys.prefix)
ENV = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
"""Without what Git sets when these tests run inside a hook."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A Git repository with this project's hooks and ruff settings, and its environment."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(VENV)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, env=ENV, check=True)
    return tmp_path


def run_hooks(repository: Path, text: str) -> tuple[int, str]:
    """Stage a module and run the hooks; return their exit code and the module as they leave it."""
    module = repository / "module.py"
    module.write_text(text)
    subprocess.run(["git", "add", "module.py"], cwd=repository, env=ENV, check=True)
    env = ENV | {"PRE_COMMIT_HOME": str(repository / "cache")}
    command = [str(VENV / "bin" / "pre-commit"), "run"]
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, module.read_text()


def test_the_hooks_format_what_is_staged_and_stop_the_commit(repository: Path) -> None:
    assert run_hooks(repository, "x = {  'a':1 }\n") == (1, 'x = {"a": 1}\n')


def test_the_hooks_stop_a_commit_that_the_linter_refuses(repository: Path) -> None:
    assert run_hooks(repository, "import os\n") == (1, "import os\n")


def test_the_hooks_let_a_clean_commit_pass(repository: Path) -> None:
    assert run_hooks(repository, "x = 1\n") == (0, "x = 1\n")


def test_the_hooks_call_what_the_makefile_calls() -> None:
    [source] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repos"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin")
    [lint] = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    entries = [hook["entry"] for hook in source["hooks"]]

    assert source["repo"] == "local"
    assert [re.sub(r" --[a-z-]+| \.$", "", line.strip()) for line in lint.splitlines()] == [
        entry.removesuffix(" --force-exclude") for entry in entries[:2]
    ]
    assert entries[2:] == ["make types contracts"]


def test_the_editor_is_told_the_length_of_a_line() -> None:
    editor = ConfigParser()
    editor.read_string("[top]\n" + (ROOT / ".editorconfig").read_text(encoding="utf-8"))
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]

    assert int(editor["*"]["max_line_length"]) == ruff["line-length"]
    assert editor["Makefile"]["indent_style"] == "tab"
