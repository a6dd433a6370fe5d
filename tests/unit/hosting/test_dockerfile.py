"""The Dockerfile fits the project: what it copies, which settings it names, who runs, and what may enter the build."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from aws_local.environments import tool
from llm_server.cli.app import app
from llm_server.settings import VARIABLES
from support.hosting_files import (
    ROOT,
    build_context,
    health_command,
    image_environment,
    is_ignored,
    of_image,
    stages,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DATA = "/var/lib/llm-server"


def copied() -> list[str]:
    """The paths of the repository that the build copies."""
    return [path for name, rest in stages()[0] if name == "COPY" for path in rest.split()[:-1]]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hosting", "hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_both_stages_have_one_exact_base_with_a_python_that_is_tested() -> None:
    bases = [stage[0][1].split()[0] for stage in stages()]
    pinned = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-[a-z]+(?:@sha256:[0-9a-f]{64})?", bases[0])

    assert pinned
    assert f"Programming Language :: Python :: {pinned[1]}" in PROJECT["classifiers"]
    assert bases == [bases[0]] * 2


def test_packages_are_installed_as_wheels_with_hashes() -> None:
    installs = [rest for name, rest in stages()[0] if name == "RUN" and "requirements/" in rest]

    assert len(installs) == 2
    assert all("--require-hashes --only-binary :all:" in install for install in installs)
    assert not [rest for rest in of_image("RUN") if "install -r" in rest or "pip" in rest]


def test_the_image_runs_as_a_user_without_rights_who_owns_the_data_only() -> None:
    [user] = of_image("USER")
    uid, gid = user.split(":")
    [made] = of_image("RUN")

    assert int(uid) >= 10_000
    assert f"--uid {uid} --gid {gid}" in made
    assert f"install -d -o {uid} -g {gid} -m 0700 {DATA}" in made
    assert "--chown" not in " ".join(of_image("COPY"))


def test_the_database_is_in_the_volume_and_the_settings_exist() -> None:
    environment = image_environment()
    named = {name for name in environment if name.startswith("LLM_SERVER_")}

    assert of_image("VOLUME") == [DATA]
    assert Path(environment["LLM_SERVER_DB"]).parent == Path(DATA)
    assert named <= set(VARIABLES)


def test_the_command_is_one_of_the_command_line() -> None:
    [entry], [command] = of_image("ENTRYPOINT"), of_image("CMD")
    name, *options = json.loads(command)
    group = typer.main.get_command(app)
    subcommand = group.get_command(typer.Context(group), name)  # type: ignore[attr-defined]
    given = subcommand.make_context(name, options).params

    assert json.loads(entry) == [*PROJECT["scripts"]]
    assert given["host"] == "0.0.0.0"


def test_port_of_the_image_is_the_port_of_the_server() -> None:
    """`serve` reads PORT; the health check does, too."""
    environment = image_environment()

    assert of_image("EXPOSE") == [environment["PORT"]] == ["8000"]
    assert "os.environ['PORT']" in health_command()[-1]


def test_everything_that_is_copied_is_there_and_enters_the_build() -> None:
    context = build_context()

    assert copied()
    for path in copied():
        assert (ROOT / path).exists()
        assert path in context or any(file.startswith(f"{path}/") for file in context), path


def test_nothing_else_enters_the_build() -> None:
    sources = tuple(copied())

    assert [file for file in build_context() if file not in sources and not file.startswith("src/llm_server/")] == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".llm-server/tasks.db",
        ".venv/bin/python",
        "engines.toml",
        "requirements/dev.txt",
        "src/llm_server/api/__pycache__/app.cpython-313.pyc",
    ],
)
def test_databases_keys_and_caches_stay_out_of_the_image(path: str) -> None:
    assert is_ignored(path)
