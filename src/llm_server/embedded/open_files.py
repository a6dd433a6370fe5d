"""The number of files and sockets that this process may open."""

from __future__ import annotations

import resource
from contextlib import suppress

MAX_OPEN_FILES = 8192
"""Enough for thousands of callers and the connections to the engines. Usual is a soft limit of 1024 or 256."""


def allow_open_files() -> None:
    """Raise the soft limit of this process, to its hard limit at most. If that fails, the limit stays as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS may refuse a limit that it says is allowed
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
