"""Read the files by which the server is hosted: Dockerfile, compose.yaml, hosting/Caddyfile and the systemd unit."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from aws_local.environments import tool

ROOT = Path(__file__).parents[2]
HOSTING = ROOT / "hosting"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile: each one's name and arguments, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage, which begins with FROM; an ARG before the first FROM is left out."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def of_image(name: str) -> list[str]:
    """Return the arguments of one kind of instruction in the last stage, which becomes the image."""
    return [rest for instruction, rest in stages()[-1] if instruction == name]


def image_environment() -> dict[str, str]:
    """Return the environment variables of the image."""
    return dict(word.split("=", 1) for rest in of_image("ENV") for word in rest.split())


def health_command() -> list[str]:
    """Return the command of the image's HEALTHCHECK."""
    [check] = of_image("HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD")[2])
    return command


def build_context() -> set[str]:
    """Return the files of this folder that a build is sent."""
    found = set()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in (".venv", ".git")]
        found |= {Path(folder, file).relative_to(ROOT).as_posix() for file in files}
    return {path for path in found if not is_ignored(path)}


def is_ignored(path: str) -> bool:
    """Return whether .dockerignore keeps a path out of a build.

    A line holds for what it names and for everything below; the last line that holds decides (Docker's documentation
    of .dockerignore).
    """
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        ignores, pattern = not line.startswith("!"), line.lstrip("!")
        if not pattern or pattern[0] == "#":
            continue
        regex = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{regex}(?:/.*)?", path):
            ignored = ignores
    return ignored


def compose() -> dict[str, Any]:
    """Return compose.yaml, without the variables of the environment being replaced."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return read


def caddy_config() -> Any:
    """Return hosting/Caddyfile as Caddy understands it, in Caddy's JSON."""
    command = [str(tool("hosting", "caddy")), "adapt", "--adapter", "caddyfile", "--config", str(HOSTING / "Caddyfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


def unit() -> dict[str, dict[str, list[str]]]:
    """Return the systemd unit: the values of each option, by section."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (HOSTING / "llm-server.service").read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(header[1], {})
        elif line and line[0] != "#":
            option, _, value = line.partition("=")
            section.setdefault(option, []).append(value)
    return sections


def seconds(duration: str) -> float:
    """Return a duration such as `20s` or `20` (systemd's seconds)."""
    match = re.fullmatch(r"(\d+)s?", duration)
    assert match, duration
    return float(match[1])
