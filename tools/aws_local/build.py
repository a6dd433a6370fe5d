"""`make build`: build both functions and their layers for one processor, without Docker."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from aws_local.environments import ToolMissing, tool

ARCHITECTURES = {"arm64": "arm64", "aarch64": "arm64", "x86_64": "x86_64", "amd64": "x86_64"}
"""Lambda's names of the processors, by the names that operating systems use."""
BUILD_DIR = Path(".aws-sam/build")  # where `sam local` and `sam deploy` look


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and say for which processor; return the exit code of `sam build`."""
    options = _options(arguments)
    architecture = options.architecture or host_architecture()
    if architecture is None:
        print(f"Lambda has no processor like this machine's ({platform.machine()}): set ARCHITECTURE.", file=sys.stderr)
        return 1
    try:
        code = build(architecture, options.build_dir)
    except ToolMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    if code == 0:
        print(_summary(architecture, chosen=options.architecture is not None))
    return code


def host_architecture() -> str | None:
    """Return Lambda's name of this machine's processor, or None if Lambda has no such processor."""
    return ARCHITECTURES.get(platform.machine().lower())


def build(architecture: str, build_dir: Path) -> int:
    """Run `sam build` for a processor and return its exit code. The built template allows this processor only."""
    ran = subprocess.run(
        [
            *(str(tool("sam", "sam")), "build", "--build-dir", str(build_dir)),
            *("--parameter-overrides", f"Architecture={architecture}"),
        ],
        env=os.environ | {"ARCHITECTURE": architecture, "SAM_CLI_TELEMETRY": "0"},
        check=False,
    )
    if ran.returncode == 0:
        restrict(build_dir / "template.yaml", architecture)
    return ran.returncode


def restrict(template: Path, architecture: str) -> None:
    """Make a processor the only value of the parameter Architecture in a template that `sam build` wrote.

    So `sam local` runs what was built without being told, and CloudFormation refuses functions for another processor.
    """
    document = yaml.safe_load(template.read_text(encoding="utf-8"))
    document["Parameters"]["Architecture"] |= {"Default": architecture, "AllowedValues": [architecture]}
    template.write_text(yaml.safe_dump(document, sort_keys=False, width=4096), encoding="utf-8")


def _summary(architecture: str, *, chosen: bool) -> str:
    if chosen:
        return f"Built for {architecture}."
    return (
        f"Built for {architecture}, this machine's processor, so that `sam local` can run it. "
        "`make deploy` builds for arm64 again, or for the ARCHITECTURE that it is given."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make build", description=__doc__)
    parser.add_argument("--architecture", choices=sorted(set(ARCHITECTURES.values())), help="default: this machine's")
    parser.add_argument("--build-dir", type=Path, default=BUILD_DIR, metavar="FOLDER")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
