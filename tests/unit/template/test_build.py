"""`make build` builds for one processor: this machine's, or the one it is told."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import yaml

from aws_local import build, template

MAKEFILE = template.TEMPLATE.parent / "layers" / "build.mk"


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("riscv64", None)],
)
def test_the_default_is_this_machines_processor(
    monkeypatch: pytest.MonkeyPatch, machine: str, architecture: str | None
) -> None:
    """Docker runs an image for another processor only with an emulator of it."""
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert build.host_architecture() == architecture


def test_a_machine_that_lambda_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    assert build.main([]) == 1
    assert "(riscv64): set ARCHITECTURE." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "wheels"), [("arm64", "aarch64-manylinux2014"), ("x86_64", "x86_64-manylinux2014")]
)
def test_the_layers_get_the_wheels_of_the_processor(architecture: str, wheels: str) -> None:
    shown = ["--eval", "show: ; @echo $(LAMBDA_PLATFORM)", "show", f"ARCHITECTURE={architecture}"]
    made = subprocess.run(
        ["make", "--no-print-directory", "-f", MAKEFILE, *shown], capture_output=True, text=True, check=True
    )

    assert made.stdout.strip() == wheels


def test_a_built_template_allows_only_the_processor_it_was_built_for(tmp_path: Path) -> None:
    """Else CloudFormation would accept layers whose compiled modules the functions cannot load."""
    built = tmp_path / "template.yaml"
    before = template.load()
    built.write_text(yaml.safe_dump(before, sort_keys=False), encoding="utf-8")
    build.restrict(built, "x86_64")
    after = yaml.safe_load(built.read_text(encoding="utf-8"))

    offered = after["Parameters"].pop("Architecture")
    described = before["Parameters"].pop("Architecture")
    assert offered == described | {"Default": "x86_64", "AllowedValues": ["x86_64"]}
    assert (after, list(after["Resources"])) == (before, list(before["Resources"]))
