"""The marker beside a database file: it tells that the file has been in use, so an empty file there means a loss.

Without it, a server would start over with an empty file, and each earlier task would be unknown.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.storage.sqlite.file.links import refuse_dead_link

_log = logging.getLogger(__name__)


def marker_of(file: Path) -> Path:
    """Return the marker of a database file."""
    return file.with_name(f"{file.name}.marker")


def was_in_use(path: Path) -> bool:
    """Return whether a file has its marker. Ask before you look at the file: another process may be making both."""
    return marker_of(path.resolve()).exists()


def refuse_loss(path: Path) -> None:
    """Raise ConfigurationError if a file that has been in use is missing or empty, or the path is a link to nothing.

    SQLite must not open the file before.
    """
    refuse_dead_link(path)
    file = path.resolve()
    if was_in_use(path) and not (file.exists() and file.stat().st_size):
        raise lost(path)


def lost(path: Path) -> ConfigurationError:
    """Return the error for a file that has been in use and has no content any more."""
    return ConfigurationError(
        f"The database {path} is missing or empty, but it has been in use: its tasks and keys would be lost. "
        f"Restore the file; or, to start with an empty database, remove {marker_of(path.resolve())}."
    )


def mark_in_use(path: Path) -> None:
    """Write the marker of a file if it does not exist. If the folder takes no new file, only log it."""
    file = path.resolve()
    text = (
        f"LLM-Server has been using {file.name}. While this marker exists, LLM-Server does not start if that file is "
        "missing or empty. To start with an empty database, remove the marker.\n"
    )
    try:
        descriptor = os.open(marker_of(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        _log.warning("database not marked", extra={"database": path, "cause": str(error)})
        return
    with os.fdopen(descriptor, "w") as marker:
        marker.write(text)
