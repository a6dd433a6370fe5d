"""The systemd unit is valid, hardened, and fits the settings and the times of the server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_server.embedded.open_files import MAX_OPEN_FILES
from llm_server.embedded.server import GRACE_S, REQUEST_GRACE_S
from llm_server.settings import MAX_WORKERS, VARIABLES
from support.hosting_files import HOSTING, image_environment, seconds, unit

SERVICE = {option: values[-1] for option, values in unit()["Service"].items()}
ANALYSE = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(ANALYSE is None, reason="needs systemd-analyze, which only Linux has")
MAX_EXPOSURE = 15
"""Tenths, as `--threshold` takes it. 0 is for a service without a network."""


def analyse(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert ANALYSE
    return subprocess.run([ANALYSE, *arguments], capture_output=True, text=True, timeout=60)


def environment() -> dict[str, str]:
    return dict(assignment.split("=", 1) for assignment in unit()["Service"]["Environment"])


@with_systemd
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """With a program that exists on this machine, because the file is checked for it."""
    text = (HOSTING / "llm-server.service").read_text(encoding="utf-8")
    copy = tmp_path / "llm-server.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))

    done = analyse("verify", copy)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@with_systemd
def test_the_service_is_hardened() -> None:
    done = analyse("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", HOSTING / "llm-server.service")

    assert done.returncode == 0, done.stdout


def test_it_writes_to_its_own_folders_only() -> None:
    assert SERVICE["ProtectSystem"] == "strict"
    assert SERVICE["StateDirectory"] == SERVICE["CacheDirectory"] == "llm-server"
    assert Path(environment()["LLM_SERVER_DB"]).parent == Path("/var/lib") / SERVICE["StateDirectory"]
    assert Path(environment()["XDG_CACHE_HOME"]) == Path("/var/cache")
    assert "ReadWritePaths" not in SERVICE


def test_the_database_is_where_the_container_has_it() -> None:
    assert environment()["LLM_SERVER_DB"] == image_environment()["LLM_SERVER_DB"]


def test_settings_exist() -> None:
    assert {name for name in environment() if name.startswith("LLM_SERVER_")} <= set(VARIABLES)


def test_a_stopped_server_has_time_to_finish() -> None:
    assert seconds(SERVICE["TimeoutStopSec"]) >= GRACE_S + REQUEST_GRACE_S + 5
    assert SERVICE["KillMode"] == "mixed"


def test_a_server_that_refuses_to_start_is_not_started_for_ever() -> None:
    """Five quick failures fit into the interval, so the limit is reached."""
    limits = {option: values[-1] for option, values in unit()["Unit"].items()}
    burst, interval_s = int(limits["StartLimitBurst"]), seconds(limits["StartLimitIntervalSec"])

    assert SERVICE["Restart"] == "on-failure"
    assert burst * (seconds(SERVICE["RestartSec"]) + 20) < interval_s


def test_limits_leave_room_for_the_workers_and_connections() -> None:
    assert int(SERVICE["TasksMax"]) >= 1.5 * MAX_WORKERS
    assert int(SERVICE["LimitNOFILE"]) >= MAX_OPEN_FILES
