"""Run `llm-server serve` as users do: in its own process on a free port, killed at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from support import canaries

STARTED_S = 20.0
TESTS = str(Path(__file__).parents[1])
_ADDRESS = re.compile(r"address\s+(http://\S+)")


@dataclass(slots=True)
class RunningServer:
    """A server process and its output so far."""

    process: subprocess.Popen[str]
    url: str
    printed: str
    log: Path

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """Send a request below /api/v1; return the response with its JSON body in `.json()`."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        data = None if body is None else json.dumps(body)
        return urllib3.request(method, f"{self.url}/api/v1{path}", body=data, headers=sent, retries=False, timeout=40)

    def submit(self, prompt: str, *, wait_s: int = 0, **fields: object) -> Any:
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return self.call("POST", "/tasks", {"prompt": prompt, **fields}, headers).json()

    def finished(self, task_id: str, *, within_s: float = 30.0) -> Any:
        """Return the task once it is final."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            task = self.call("GET", f"/tasks/{task_id}").json()
            if task["status"] in ("Completed", "Failed", "Cancelled"):
                return task
            time.sleep(0.05)
        raise AssertionError(f"task {task_id} is still {task['status']} after {within_s} s\n{self.log.read_text()}")

    def kill(self) -> None:
        """Send SIGKILL, so that the server cannot clean up."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def serving(
    db: Path, *arguments: str, env: Mapping[str, str] | None = None, program: str = "llm_server"
) -> Iterator[RunningServer]:
    """Start a server on a free port; it is killed at the end if it still runs. `program` is the module that runs it."""
    process, log = _start(db, *arguments, env=env, program=program)
    printed = ""
    try:
        server = _greeted(process, log)
        printed = server.printed
        yield server
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        printed += process.stdout.read()
        process.stdout.close()
        canaries.check(printed + log.read_text())


@contextmanager
def started(db: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a server that may die before it has printed its greeting; it is killed at the end if it still runs."""
    process, log = _start(db, env=env)
    try:
        yield process
    finally:
        process.kill()
        printed, _ = process.communicate(timeout=10)
        canaries.check(printed + log.read_text())


def refused(db: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Start a server that must exit by itself; return its exit code and its output."""
    process, log = _start(db, *arguments, env=env)
    printed, _ = process.communicate(timeout=20)
    canaries.check(printed + log.read_text())
    return process.returncode, log.read_text()


def _start(
    db: Path, *arguments: str, env: Mapping[str, str] | None = None, program: str = "llm_server"
) -> tuple[subprocess.Popen[str], Path]:
    """Start `llm-server serve`, or a program of the tests, without environment variables that name an engine."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    if program != "llm_server":
        kept["PYTHONPATH"] = os.pathsep.join([TESTS, *filter(None, [kept.get("PYTHONPATH")])])
    descriptor, log = tempfile.mkstemp(suffix=".log", dir=db.parent)
    command = [sys.executable, "-m", program, "serve", "--port", "0", "--db", str(db), *arguments]
    with os.fdopen(descriptor, "w") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=db.parent, env={**kept, **(env or {})}
        )
    return process, Path(log)


def _greeted(process: subprocess.Popen[str], log: Path) -> RunningServer:
    printed, end = "", time.monotonic() + STARTED_S
    assert process.stdout is not None
    while "Try it:" not in printed and time.monotonic() < end:
        line = process.stdout.readline()
        if not line:
            break
        printed += line
    address = _ADDRESS.search(printed)
    assert address, f"the server did not start:\n{printed}\n{log.read_text()}"
    return RunningServer(process, address[1].replace("localhost", "127.0.0.1"), printed, log)
