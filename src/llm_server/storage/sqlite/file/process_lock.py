"""Reserves a database file for one process, with an flock on `<file>.lock`.

The operating system releases the lock when the process ends, even if it is killed. The lock file contains the process
id of a server that holds the file, so that another command can stop that server.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite.file.links import refuse_dead_link

Flock = Callable[[int, int], None]
Kill = Callable[[int, int], None]

POLL_S = 0.05
_held: set[Path] = set()
"""The files that this process holds. A second flock on one of them would be refused as if another process held it."""


class OnlyProcess:
    """Holds a database file for this process until it is closed.

    Raises:
        ConfigurationError: another process holds the file, the lock file cannot be used, or the path is a link to
            nothing.
    """

    def __init__(self, path: Path, *, flock: Flock = fcntl.flock) -> None:
        descriptor = _locked(path, flock)
        if descriptor is None:
            raise in_use(path)
        self._file, self._descriptor = path.resolve(), descriptor
        _held.add(self._file)

    def announce(self) -> None:
        """Write this process's id into the lock file, so that `stop_holder` can stop it."""
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Release the file."""
        _held.discard(self._file)
        os.close(self._descriptor)


@contextmanager
def held_by_us(path: Path, *, wait_s: float) -> Iterator[bool]:
    """Hold a file during the block. Does nothing if this process already holds it.

    Yields False, without the lock, if another process still holds the file after `wait_s` seconds.
    """
    if path.resolve() in _held:
        yield True
        return
    end_s = time.monotonic() + wait_s
    while (descriptor := _locked(path, fcntl.flock)) is None and time.monotonic() < end_s:
        time.sleep(POLL_S)
    if descriptor is None:
        yield False
        return
    _held.add(path.resolve())
    try:
        yield True
    finally:
        _held.discard(path.resolve())
        os.close(descriptor)


def stop_holder(path: Path, *, wait_s: float, kill: Kill = os.kill) -> None:
    """Stop the server that holds a file with SIGTERM, and wait until it has released the file.

    Does nothing if no process holds the file.

    Raises:
        ConfigurationError: the process that holds the file is not a server, may not be signalled, or still holds the
            file after `wait_s` seconds.
    """
    with held_by_us(path, wait_s=0) as is_free:
        if is_free:
            return
    process_id = Path(f"{path.resolve()}.lock").read_text(encoding="ascii", errors="replace")
    if not process_id.isdigit():
        raise in_use(path)
    try:
        with suppress(ProcessLookupError):
            kill(int(process_id), signal.SIGTERM)
    except PermissionError as error:
        raise in_use(path) from error
    with held_by_us(path, wait_s=wait_s) as is_free:
        if not is_free:
            raise in_use(path)


def in_use(path: Path) -> ConfigurationError:
    """Return the error for a file that another process holds."""
    advice = "Stop it, or choose another file: LLM_SERVER_DB=... or --db ..."
    return ConfigurationError(f"The database {path} is in use by another server. {advice}")


def cannot_be_opened(path: Path, reason: object) -> ConfigurationError:
    """Return the error for a file that cannot be used."""
    return ConfigurationError(f"The database {path} cannot be opened: {reason}.")


def _locked(path: Path, flock: Flock) -> int | None:
    """Lock the lock file. Return its descriptor, or None if another process holds it. Raises ConfigurationError."""
    refuse_dead_link(path)
    file = path.resolve()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise cannot_be_opened(path, error) from error
    try:
        flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:  # some network disks do not support locks
        os.close(descriptor)
        raise cannot_be_opened(path, f"its lock file cannot be locked: {error}") from error
    os.ftruncate(descriptor, 0)  # the process id of an earlier holder
    return descriptor
