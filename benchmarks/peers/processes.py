"""Start processes that are certain to end, and read their CPU time and memory from /proc (Linux)."""

import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def background(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a command in a session of its own; yield its process id. At the end, kill it and all its children.

    Its output is printed only if it ends by itself, or if the block fails.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdout=output, stderr=output, start_new_session=True
        )
        failed = True
        try:
            yield process.pid
            failed = process.poll() is not None
        except (KeyboardInterrupt, SystemExit):
            failed = False
            raise
        finally:
            _kill(process)
            if failed:
                output.seek(0)
                printed = output.read()[-3000:].decode(errors="replace")
                print(f"  {' '.join(command)} ended with {process.returncode}:\n{printed}", flush=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def free_port() -> int:
    """Return a free port below those that the system gives out, so that no other program gets it in the meantime."""
    while True:
        port = random.randrange(15_000, 32_000)
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def cpu_s(roots: Sequence[int]) -> float:
    """Return the user and system time of some processes and of all their living descendants."""
    stats = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue  # the process has ended
        stats[int(folder.name)] = text.rpartition(")")[2].split()
    counted = set(roots)
    while more := {pid for pid, fields in stats.items() if int(fields[1]) in counted} - counted:
        counted |= more
    return sum(int(stats[pid][11]) + int(stats[pid][12]) for pid in counted if pid in stats) / _TICKS_PER_S


def memory_mb(pid: int, *, peak: bool = False) -> float:
    """Return the resident memory of a process in MB (of 2^20 bytes), now or at its peak."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(wanted)) / 1024
