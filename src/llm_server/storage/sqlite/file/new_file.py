"""Writes a file beside its place and gives it its name at the end, so that the file is complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def part_of(file: Path) -> Path:
    """Return the path under which a file is written until it is complete."""
    return file.with_name(f"{file.name}.part")


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Yield the path of an empty file that only its owner can read; the block fills it and closes it.

    After the block, the content is flushed to the disk and the file gets its name. If the block raises, the incomplete
    file is removed. A process that is killed leaves it, as `part_of(file)`.

    Raises:
        FileExistsError: the file, or its part, exists.
        OSError: the file cannot be written.
    """
    part = part_of(file)
    refuse_existing(file)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield part
        _sync(part)
        refuse_existing(file)
        part.rename(file)
        _sync(file.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def refuse_existing(file: Path) -> None:
    """Raise FileExistsError if something has the name of the file, even a link that leads nowhere."""
    if os.path.lexists(file):
        raise FileExistsError(f"{file} exists already")


def _sync(path: Path) -> None:
    """Flush a file, or the list of names of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
