"""Refuse a path that leads through a link to nothing, such as to a volume that is not mounted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from llm_server.orchestration.domain.errors import ConfigurationError


def refuse_dead_link(path: Path) -> None:
    """Raise ConfigurationError if a path, or a folder above it, is a link to nothing. Ask before a file is made.

    The link would be followed, and an empty database made where the volume belongs.
    """
    for place in (path, *path.parents):
        if os.path.islink(place) and _leads_to_nothing(place):
            raise ConfigurationError(
                f"The database {path} cannot be opened: {place} is a link to {place.readlink()}, which does not exist. "
                "If it is on a volume, mount the volume; or remove the link."
            )


def _leads_to_nothing(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return False
