"""The container's health check, run as Docker runs it, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from support.hosting_files import health_command, of_image, seconds
from support.server_process import serving


def health(url: str) -> int:
    """Run the health check of the image; return its exit code."""
    port = str(urlsplit(url).port)
    program, *arguments = health_command()
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PORT": port}, capture_output=True, timeout=20
    )
    return done.returncode


def test_health_follows_the_server(tmp_path: Path) -> None:
    """0 while it serves, 1 once it knows that its database is gone, 1 when it does not answer."""
    db = tmp_path / "tasks.db"
    with serving(db) as server:
        healthy = health(server.url)
        db.rename(tmp_path / "moved.db")
        server.submit("Why is the sky blue?")
        lost = health(server.url)
        url = server.url
    gone = health(url)

    assert (healthy, lost, gone) == (0, 1, 1)


def test_a_server_that_hangs_is_unhealthy_before_docker_gives_up(tmp_path: Path) -> None:
    """Docker kills a check at its time-out; the check itself ends earlier, with its own exit code."""
    [check] = of_image("HEALTHCHECK")
    timeout_s = seconds(next(word for word in check.split() if word.startswith("--timeout=")).partition("=")[2])
    with serving(tmp_path / "tasks.db") as server:
        os.kill(server.process.pid, 19)  # SIGSTOP
        began = time.monotonic()
        code = health(server.url)
        took_s = time.monotonic() - began

    assert code == 1
    assert took_s < timeout_s
