"""Run `llm-server` as users do: in a pipe, or on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from llm_server.cli.app import app
from support.scripted_server import Script

COMMAND = [sys.executable, "-c", "from llm_server.cli.app import app; app(prog_name='llm-server')"]


def run(server: Script, *arguments: str, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process against a server; its standard output is not a terminal."""
    return CliRunner().invoke(app, [*arguments, "--url", server.url], input=stdin)


def started(server: Script, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    """Start a command against a server in a process of its own."""
    return subprocess.Popen([*COMMAND, *arguments, "--url", server.url], **streams)


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and what the terminal showed."""
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b"".join(iter(lambda: _read(master), b"")).decode()
    os.close(master)
    return process.returncode, shown


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux reports the end of a terminal as an error
        return b""
