"""ministack, the DynamoDB and SQS emulator, as a process of its own that listens on one address and dies with us."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aws_local.environments import ToolMissing, tool

START_S = 30.0
STOP_S = 5.0
# It ends when its standard input does: also when this process is killed and can tell it nothing.
_UNTIL_STDIN_ENDS = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from ministack.app import main
sys.argv = ["ministack"]
main()
"""


@contextmanager
def running(bind: str = "127.0.0.1") -> Iterator[str]:
    """Start ministack on a free port of one address, give its endpoint URL, stop it at the end.

    It authenticates nobody: `bind` must be an address that only this machine (or its containers) can reach.

    Raises:
        ToolMissing: it is not installed, or was not ready within 30 s.
    """
    port = _free_port(bind)
    process = subprocess.Popen(
        [str(tool("ministack", "python")), "-c", _UNTIL_STDIN_ENDS],
        env=_environment(bind, port),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; we stop it after what still uses it
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


def _environment(bind: str, port: int) -> dict[str, str]:
    """Set only what it needs: it would inherit credentials, and listen on more than one port, otherwise."""
    passed_on = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **passed_on,
        "BIND_HOST": bind,
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": bind,
        "SERVICES": "dynamodb,sqs,ssm",
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # it looks after containers that it may have left; not ours
        "LOG_LEVEL": "ERROR",
    }


def _free_port(bind: str) -> int:
    with socket.socket() as probe:
        probe.bind((bind, 0))
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
