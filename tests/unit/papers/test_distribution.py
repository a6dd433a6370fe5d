"""What a release would publish: `make dist` runs the same check on the files that it builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import check_dist
from llm_server import __version__

ROOT = Path(__file__).parents[3]
WHEEL = f"{check_dist.stem()}-py3-none-any.whl"
INFO = f"{check_dist.stem()}.dist-info"

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel, built as `make dist` builds them."""
    dist = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(dist)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    return dist


def changed(built: Path, folder: Path, change: Callable[[Members], object]) -> Path:
    """Copy what was built, with other members in the wheel."""
    dist = folder / "dist"
    shutil.copytree(built, dist)
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        members = {name: wheel.read(name) for name in wheel.namelist()}
    change(members)
    with zipfile.ZipFile(dist / WHEEL, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return dist


def test_wheel_and_sdist_are_complete(built: Path) -> None:
    """The code, its data, `py.typed`, licence and notice, the entry point, the version; no tests."""
    assert check_dist.problems(built, f"v{__version__}") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda members: members.pop("llm_server/py.typed"), "llm_server/py.typed is missing."),
        (lambda members: members.pop("llm_server/data/analysis.bin"), "llm_server/data/analysis.bin is missing."),
        (lambda members: members.pop(f"{INFO}/licenses/NOTICE"), f"{INFO}/licenses/NOTICE is missing."),
        (lambda members: members.update({"tests/test_a.py": b""}), "tests/test_a.py must not be in it."),
        (
            lambda members: members.update({f"{INFO}/entry_points.txt": b"[console_scripts]\n"}),
            "The entry point 'llm-server = llm_server.__main__:main' is missing.",
        ),
        (
            lambda members: members.update({f"{INFO}/METADATA": b"Version: 9.9\nLicense-Expression: Apache-2.0\n\n"}),
            f"Its version is 9.9, not {__version__}.",
        ),
    ],
)
def test_a_spoilt_wheel_is_named(
    built: Path, tmp_path: Path, change: Callable[[Members], object], problem: str
) -> None:
    dist = changed(built, tmp_path, change)

    assert check_dist.problems(dist, f"v{__version__}") == [f"{WHEEL}: {problem}"]


def test_a_release_needs_both_files_and_the_tag_of_its_version(built: Path, tmp_path: Path) -> None:
    shutil.copy(built / WHEEL, tmp_path)

    assert check_dist.problems(tmp_path, "main") == [
        f"The tag is 'main', but the version is {__version__}.",
        f"{tmp_path} must hold exactly one *.tar.gz; it holds 0.",
    ]


def test_the_wheel_runs_without_the_repository(built: Path, tmp_path: Path) -> None:
    """The command line finds its packaged data: the catalogue and the trained analysis."""
    with zipfile.ZipFile(built / WHEEL) as wheel:
        wheel.extractall(tmp_path)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    script = "import llm_server; print(llm_server.__file__); from llm_server.__main__ import main; main()"
    command = [sys.executable, "-c", script, "route", "--json", "Write a haiku about queues."]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    origin, _, decision = done.stdout.partition("\n")

    assert Path(origin).is_relative_to(tmp_path)
    assert json.loads(decision)["role"] == "Writing-Agent"
