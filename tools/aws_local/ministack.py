"""Run ministack, an emulator of AWS services, in a process that listens on one address and ends with this one."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from aws_local.environments import ToolMissing, tool

START_S = 120.0
STOP_S = 5.0
# The process ends when its standard input is closed, so it also ends if this process is killed.
_UNTIL_STDIN_ENDS = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from ministack.app import main
sys.argv = ["ministack"]
main()
"""


@contextmanager
def running(bind: str = "127.0.0.1", *, services: Sequence[str] = ("dynamodb", "sqs", "ssm")) -> Iterator[str]:
    """Run ministack on a free port during the block; yield its endpoint URL. It emulates these services only.

    ministack accepts all callers, so `bind` must be an address that only this machine or its containers can reach.

    Raises:
        ToolMissing: ministack is not installed, or was not ready within 120 s.
    """
    port = _free_port(bind)
    process = subprocess.Popen(
        [str(tool("ministack", "python")), "-c", _UNTIL_STDIN_ENDS],
        env=_environment(bind, port, services),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C does not stop it before the parts that use it
    )
    try:
        _wait_until_ready(process, bind, port)
        yield f"http://{bind}:{port}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _environment(bind: str, port: int, services: Sequence[str]) -> dict[str, str]:
    """Return the variables that ministack needs; with all of ours it would get credentials and open more ports."""
    passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **passed_on,
        "BIND_HOST": bind,
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": bind,
        "SERVICES": ",".join(services),
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # ministack would remove containers that it takes for its own
        "LOG_LEVEL": "ERROR",
    }


def _free_port(bind: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((bind, 0))
        except OSError as error:
            raise ToolMissing(f"--bind {bind} is not an address of this machine ({error.strerror}).") from error
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], bind: str, port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(bind, port, timeout=1)
            try:
                connection.request("GET", "/_ministack/ready")
                if connection.getresponse().status == 200:
                    return
            finally:
                connection.close()
        time.sleep(0.02)
    raise ToolMissing(f"ministack was not ready on {bind}:{port} (exit code {process.poll()}).")
