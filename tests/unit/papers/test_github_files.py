"""Workflows and forms are valid, safe as far as zizmor can tell, and run what a developer runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def ran(tool: str, *arguments: str | Path) -> str:
    """Run a tool of the development environment; return all it printed if it failed, else nothing."""
    done = subprocess.run([BIN / tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def workflow(name: str) -> dict[str, Any]:
    """Read a workflow. YAML 1.1 reads the key `on` as true."""
    read: dict[Any, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in read.items()}


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
    ],
)
def test_files_follow_the_published_schemas(schema: str, files: list[Path]) -> None:
    assert files
    assert ran("check-jsonschema", "--builtin-schema", schema, *files) == ""


def test_zizmor_finds_nothing() -> None:
    """Pinned actions, least permissions, no injection through expressions, no credentials left behind."""
    assert ran("zizmor", "--offline", "--no-progress", "--persona", "auditor", GITHUB) == ""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_make_targets_and_nothing_else(path: Path) -> None:
    """What fails there can be reproduced with the same command."""
    commands = [step["run"] for job in workflow(path.name)["jobs"].values() for step in job["steps"] if "run" in step]

    assert commands
    for command in commands:
        target = re.fullmatch(r"make ([a-z-]+) PYTHON=python", command)
        assert target, command
        assert target[1] in MAKE_TARGETS


def test_ci_covers_every_version_and_system_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    lowest, above = (int(minor) for minor in re.findall(r"3\.(\d+)", project["requires-python"]))
    matrix = workflow("ci.yml")["jobs"]["check"]["strategy"]["matrix"]

    assert promised == [f"3.{minor}" for minor in range(lowest, above)]
    assert matrix == {"system": ["ubuntu-latest", "macos-latest"], "python": promised}


def test_a_release_is_started_by_a_person_and_published_only_when_switched_on() -> None:
    release = workflow("release.yml")
    publish = release["jobs"]["publish"]

    assert release["on"] == {"workflow_dispatch": None}
    assert release["jobs"]["build"]["if"] == "github.ref_type == 'tag'"
    assert publish["if"] == "vars.PUBLISH_TO_PYPI == 'true'"
    assert publish["needs"] == "build"
    assert publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
