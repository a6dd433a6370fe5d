"""Download a model file: resume after an interruption, and keep the file only if its checksum is correct."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from llm_server.engines.local.model_files import part_of, path_of, size_bytes
from llm_server.loopback import is_loopback_url
from llm_server.orchestration.domain.engines.catalog import LocalModel
from llm_server.orchestration.domain.errors import DownloadFailed

MAX_TRIES = 4
"""The download fails after this many tries in a row without a new byte."""
MAX_REDIRECTS = 5
SPARE_BYTES = 64 * 1024 * 1024
"""Space that must stay free on the disk."""
_CHUNK_BYTES = 256 * 1024
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_KEPT = "the downloaded part is kept, and the next pull resumes there"

Show = Callable[[int], None]
"""Called with the number of bytes that have arrived so far."""


class _Interrupted(Exception):
    """The download was interrupted, or the server is busy; another try may download the rest."""


def pull(
    name: str,
    model: LocalModel,
    models_dir: Path,
    *,
    show: Show = lambda _: None,
    pool: urllib3.PoolManager | None = None,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a model file, unless the complete file is there already, and return its path.

    Raises:
        DownloadFailed: the message says why. A file of the wrong size or checksum is removed; an incomplete one is
            kept as `.part`, and the next pull resumes it.
    """
    path = path_of(name, model, models_dir)
    part = part_of(name, model, models_dir)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _lock(models_dir):
            if path.exists() and _is_right(path, model):
                return path
            missing = model.size_bytes - size_bytes(part)
            if missing > 0 and (free := free_bytes(models_dir)) < missing + SPARE_BYTES:
                raise DownloadFailed(
                    f"{name} needs {missing + SPARE_BYTES:,} free bytes in {models_dir}; only {free:,} are free."
                )
            _fetch(name, model, part, pool or urllib3.PoolManager(), show, sleep)
            if not _is_right(part, model):
                part.unlink()
                raise DownloadFailed(f"The downloaded file of {name} has a wrong checksum and was removed.")
            part.replace(path)
    except OSError as error:
        raise DownloadFailed(f"{name} cannot be stored in {models_dir}: {error.strerror or error}; {_KEPT}.") from error
    return path


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder against downloads by other processes. The lock is released when the block or the process ends."""
    with (folder / "pull.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadFailed(f"Another process is downloading a model to {folder}.") from error
        yield


def _fetch(
    name: str, model: LocalModel, part: Path, pool: urllib3.PoolManager, show: Show, sleep: Callable[[float], None]
) -> None:
    """Download the rest of a file; after an interruption resume it, as long as new bytes arrive."""
    longest, failures = size_bytes(part), 0
    while size_bytes(part) != model.size_bytes:
        try:
            _receive(name, model, part, pool, show)
        except _Interrupted as interruption:
            arrived = size_bytes(part)
            if arrived > longest:
                longest, failures = arrived, 0
            else:
                failures += 1
            if failures == MAX_TRIES:
                raise DownloadFailed(f"The download of {name} broke off: {interruption}; {_KEPT}.") from interruption
            sleep(2.0**failures)


def _receive(name: str, model: LocalModel, part: Path, pool: urllib3.PoolManager, show: Show) -> None:
    """Append the bytes that the server sends; start again at byte 0 if the server does not support ranges."""
    arrived = size_bytes(part) if size_bytes(part) < model.size_bytes else 0
    with closing(_open(pool, model.url, arrived)) as response:
        position = _start_position(name, model, part, response, arrived)
        with part.open("r+b" if position else "wb") as file:
            file.seek(position)
            for chunk in _chunks(response):
                position += len(chunk)
                if position > model.size_bytes:
                    _fail_for_size(name, model, part, "more")
                file.write(chunk)
                show(position)
            file.flush()
            os.fsync(file.fileno())
    if position < model.size_bytes:
        raise _Interrupted("the connection was closed early")


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield bytes as they arrive, so that all of them are stored even if the connection is lost in the middle."""
    try:
        while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except HTTPError as error:
        raise _Interrupted("the connection was lost") from error


def _start_position(name: str, model: LocalModel, part: Path, response: urllib3.BaseHTTPResponse, arrived: int) -> int:
    """Return the position in the file at which the response's bytes start: `arrived` or 0.

    Raises:
        DownloadFailed: the answer is not the requested part of the file.
    """
    if response.status == 206:
        sent_range = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if not sent_range or int(sent_range[1]) != arrived:
            part.unlink()
            raise DownloadFailed(f"The server sent another part of {name} than the missing one; pull the model again.")
        if sent_range[2] not in ("*", str(model.size_bytes)):
            _fail_for_size(name, model, part, sent_range[2])
        return arrived
    if response.status == 200:
        length = response.headers.get("content-length", str(model.size_bytes))
        if length != str(model.size_bytes):
            _fail_for_size(name, model, part, length)
        return 0
    if response.status == 416:
        _fail_for_size(name, model, part, "fewer")
    if response.status in (408, 429) or response.status >= 500:
        raise _Interrupted(f"the server answered HTTP {response.status}")
    raise DownloadFailed(f"{name} cannot be fetched: the server answered HTTP {response.status}.")


def _fail_for_size(name: str, model: LocalModel, part: Path, size: str) -> NoReturn:
    """Remove the partial file and raise DownloadFailed; `size` is the number of bytes, or "more" or "fewer"."""
    part.unlink(missing_ok=True)
    raise DownloadFailed(
        f"{name} is not the file that the catalogue describes: it should have {model.size_bytes} bytes, but has "
        f"{size}; the downloaded part was removed."
    )


def _open(pool: urllib3.PoolManager, url: str, start: int) -> urllib3.BaseHTTPResponse:
    """Request the file from byte `start` on; follow redirects to HTTPS addresses, or on loopback to HTTP addresses."""
    headers = {"user-agent": "llm-server", "accept-encoding": "identity"}
    if start:
        headers["range"] = f"bytes={start}-"
    may_be_plain = _is_plain_loopback(url)
    for _ in range(MAX_REDIRECTS + 1):
        if not (url.startswith("https://") or (may_be_plain and _is_plain_loopback(url))):
            raise DownloadFailed("Models are downloaded over https:// only, or over http:// from loopback.")
        try:
            response = pool.request(
                "GET", url, headers=headers, timeout=_TIMEOUT, retries=False, redirect=False, preload_content=False
            )
        except HTTPError as error:
            raise _Interrupted("the server cannot be reached") from error
        location = response.headers.get("location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return response
        response.close()
        url = urljoin(url, location)
    raise DownloadFailed(f"The address of the model redirects more than {MAX_REDIRECTS} times.")


def _is_plain_loopback(url: str) -> bool:
    """Return whether a URL is plain HTTP on this machine, where the connection cannot be intercepted."""
    return is_loopback_url(url) and urlsplit(url).scheme == "http"


def _is_right(path: Path, model: LocalModel) -> bool:
    if size_bytes(path) != model.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
