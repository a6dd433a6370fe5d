"""Check a built sdist and wheel before they are published: `python tools/check_dist.py dist TAG`."""

from __future__ import annotations

import email
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from llm_server import __version__

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "llm_server"
ENTRY_POINT = "llm-server = llm_server.__main__:main"


def stem() -> str:
    """Return how the names of both files begin: the distribution's name and the version."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    return f"{re.sub('[-_.]+', '_', name).lower()}-{__version__}"


def problems(dist: Path, tag: str) -> list[str]:
    """Return what is wrong with the one wheel and the one sdist in a folder, one sentence each; empty if nothing is.

    `tag` is the Git tag that is released; it must be `v` and the version.
    """
    found = [] if tag == f"v{__version__}" else [f"The tag is {tag!r}, but the version is {__version__}."]
    for pattern, check in (("*.whl", _wheel_problems), ("*.tar.gz", _sdist_problems)):
        files = sorted(dist.glob(pattern))
        if len(files) != 1:
            found.append(f"{dist} must hold exactly one {pattern}; it holds {len(files)}.")
        found += [f"{file.name}: {problem}" for file in files for problem in check(file)]
    return found


def _wheel_problems(file: Path) -> list[str]:
    info = f"{stem()}.dist-info"
    source = {f"llm_server/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*") if _is_shipped(path)}
    papers = {f"{info}/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE")}
    expected = source | papers
    with zipfile.ZipFile(file) as wheel:
        names = set(wheel.namelist())
        found = [f"{name} is missing." for name in sorted(expected - names)]
        found += [
            f"{name} must not be in it." for name in sorted(names - expected - {f"{info}/WHEEL", f"{info}/RECORD"})
        ]
        if not papers <= names:
            return found
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    if metadata["Version"] != __version__:
        found.append(f"Its version is {metadata['Version']}, not {__version__}.")
    if metadata["License-Expression"] != "Apache-2.0":
        found.append(f"Its licence is {metadata['License-Expression']}, not Apache-2.0.")
    if ENTRY_POINT not in entry_points.splitlines():
        found.append(f"The entry point {ENTRY_POINT!r} is missing.")
    return found


def _sdist_problems(file: Path) -> list[str]:
    needed = {
        f"{stem()}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src/llm_server/py.typed")
    }
    with tarfile.open(file) as sdist:
        names = set(sdist.getnames())
    return [f"{name} is missing." for name in sorted(needed - names)]


def _is_shipped(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def main(dist: str, tag: str) -> int:
    """Print the problems; return the exit code."""
    found = problems(Path(dist), tag)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
