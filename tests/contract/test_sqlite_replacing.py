"""A server that holds a database file can be stopped by the one that replaces it; other holders cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite.file.process_lock import OnlyProcess, stop_holder
from support.holders import holding

HOLDER = """
import signal
import sys
from pathlib import Path
from llm_server.storage.sqlite.file.process_lock import OnlyProcess
only = OnlyProcess(Path(sys.argv[1]))
if "announced" in sys.argv:
    only.announce()
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("held", flush=True)
sys.stdin.read()
"""


def a_holder(path: Path, *how: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return holding(HOLDER, path, *how)


def test_an_announced_holder_is_stopped_and_the_file_is_free(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with a_holder(path, "announced") as holder:
        stop_holder(path, wait_s=10)

        OnlyProcess(path).close()
        assert holder.wait(5) == -signal.SIGTERM


def test_a_free_file_needs_no_stop(tmp_path: Path) -> None:
    """Not even if the holder was killed, so that its process id is left in the lock file."""
    path = tmp_path / "tasks.db"
    with a_holder(path, "announced") as holder:
        holder.kill()
        holder.wait()

        stop_holder(path, wait_s=0)
        OnlyProcess(path).close()


def test_a_holder_other_than_a_server_is_left_alone(tmp_path: Path) -> None:
    """Such as a migration, after a server was killed: the process id in the lock file may now be another process's."""
    path = tmp_path / "tasks.db"
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    (tmp_path / "tasks.db.lock").write_text(str(bystander.pid))
    with bystander, a_holder(path) as holder:
        with pytest.raises(ConfigurationError, match="in use by another server"):
            stop_holder(path, wait_s=0.1)

        assert (bystander.poll(), holder.poll()) == (None, None)
        bystander.kill()


def test_a_holder_that_does_not_end_in_time_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with a_holder(path, "announced", "stubborn"), pytest.raises(ConfigurationError, match="in use by another server"):
        stop_holder(path, wait_s=0.2)


def test_a_holder_that_may_not_be_signalled_keeps_the_file(tmp_path: Path) -> None:
    def refuse(process_id: int, number: int) -> None:
        raise PermissionError

    path = tmp_path / "tasks.db"
    with a_holder(path, "announced") as holder:
        with pytest.raises(ConfigurationError, match="in use by another server"):
            stop_holder(path, wait_s=0.1, kill=refuse)

        assert holder.poll() is None
