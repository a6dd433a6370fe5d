"""Environments for what is compared with the server; each is apart from the server's own, in `.venv/<name>`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def folder(name: str) -> Path:
    return ROOT / ".venv" / name


def python(name: str) -> str:
    return str(folder(name) / "bin" / "python")


def make(name: str) -> None:
    """Install `requirements/<name>.txt`, which is pinned by hashes, unless the same pins are installed already."""
    pins, stamp = ROOT / "requirements" / f"{name}.txt", folder(name) / "pins.txt"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        return
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder(name)], check=True)
    install = [uv, "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--python", python(name)]
    subprocess.run([*install, "-r", pins], check=True)
    stamp.write_bytes(pins.read_bytes())
