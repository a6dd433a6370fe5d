"""Fetches a model's file when the user asks for it: resumes after a cut, keeps it only with the right checksum."""

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
from llm_server.orchestration.domain.catalog import LocalModel
from llm_server.orchestration.domain.errors import DownloadFailed

TRIES = 4
"""So many tries in a row that bring no byte end the download."""
MAX_REDIRECTS = 5
SPARE_BYTES = 64 * 1024 * 1024
"""What stays free on the disk."""
_CHUNK_BYTES = 256 * 1024
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_KEPT = "what has arrived is kept, and the next pull goes on from there"

Show = Callable[[int], None]
"""Called with the number of bytes that have arrived."""


class _Cut(Exception):
    """The server broke off or is busy; the rest may come later."""


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
    """Fetch a model's file, unless the whole file is there already, and return its path.

    Raises:
        DownloadFailed: the message says why. A file of the wrong size or checksum is removed; one that broke off stays,
            as `.part`, for the next pull.
    """
    path = path_of(name, model, models_dir)
    part = part_of(name, model, models_dir)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _alone(models_dir):
            if path.exists() and _is_right(path, model):
                return path
            missing = model.size_bytes - size_bytes(part)
            if missing > 0 and (free := free_bytes(models_dir)) < missing + SPARE_BYTES:
                raise DownloadFailed(
                    f"{name} needs {missing + SPARE_BYTES:,} more bytes in {models_dir}; {free:,} are free."
                )
            _fetch(name, model, part, pool or urllib3.PoolManager(), show, sleep)
            if not _is_right(part, model):
                part.unlink()
                raise DownloadFailed(f"{name} arrived with a wrong checksum and was removed; nothing of it was kept.")
            part.replace(path)
    except OSError as error:
        raise DownloadFailed(f"{name} cannot be stored in {models_dir}: {error.strerror or error}; {_KEPT}.") from error
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the same file; the system lets go when this one ends."""
    with (folder / "pull.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadFailed(f"Another pull into {folder} is under way.") from error
        yield


def _fetch(
    name: str, model: LocalModel, part: Path, pool: urllib3.PoolManager, show: Show, sleep: Callable[[float], None]
) -> None:
    """Resume where the download broke off, as long as more arrives."""
    most, failures = size_bytes(part), 0
    while size_bytes(part) != model.size_bytes:
        try:
            _receive(name, model, part, pool, show)
        except _Cut as cut:
            arrived = size_bytes(part)
            failures, most = (0, arrived) if arrived > most else (failures + 1, most)
            if failures == TRIES:
                raise DownloadFailed(f"{name} broke off: {cut}; {_KEPT}.") from cut
            sleep(2.0**failures)


def _receive(name: str, model: LocalModel, part: Path, pool: urllib3.PoolManager, show: Show) -> None:
    """Append what the server sends; start again from byte 0 when the server does not support ranges."""
    have = size_bytes(part) if size_bytes(part) < model.size_bytes else 0
    with closing(_opened(pool, model.url, have)) as response:
        at = _begin(name, model, part, response, have)
        with part.open("r+b" if at else "wb") as file:
            file.seek(at)
            for chunk in _chunks(response):
                at += len(chunk)
                if at > model.size_bytes:
                    _wrong_size(name, model, part, "more")
                file.write(chunk)
                show(at)
            file.flush()
            os.fsync(file.fileno())
    if at < model.size_bytes:
        raise _Cut("the connection was closed early")


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield bytes as they arrive: waiting for a whole chunk would lose its beginning when it breaks off."""
    try:
        while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
            yield chunk
    except HTTPError as error:
        raise _Cut("the connection was lost") from error


def _begin(name: str, model: LocalModel, part: Path, response: urllib3.BaseHTTPResponse, have: int) -> int:
    """The byte an answer starts at: `have`, or 0. Raises DownloadFailed when it is not the file that is wanted."""
    if response.status == 206:
        sent = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if not sent or int(sent[1]) != have:
            part.unlink()
            raise DownloadFailed(f"{name}: the server sent another part of the file than the missing one; pull anew.")
        if sent[2] not in ("*", str(model.size_bytes)):
            _wrong_size(name, model, part, sent[2])
        return have
    if response.status == 200:
        length = response.headers.get("content-length", str(model.size_bytes))
        if length != str(model.size_bytes):
            _wrong_size(name, model, part, length)
        return 0
    if response.status == 416:
        _wrong_size(name, model, part, "fewer")
    if response.status in (408, 429) or response.status >= 500:
        raise _Cut(f"the server answers HTTP {response.status}")
    raise DownloadFailed(f"{name} cannot be fetched: the server answers HTTP {response.status}.")


def _wrong_size(name: str, model: LocalModel, part: Path, found: str) -> NoReturn:
    part.unlink(missing_ok=True)
    raise DownloadFailed(
        f"{name} is not the file the catalogue names: it has {found} bytes instead of {model.size_bytes}; "
        "what had arrived was removed."
    )


def _opened(pool: urllib3.PoolManager, url: str, have: int) -> urllib3.BaseHTTPResponse:
    """Ask for the file from byte `have` on; follow redirects, each of which must be HTTPS or stay on loopback."""
    headers = {"user-agent": "llm-server", "accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"
    may_be_plain = _is_plain_loopback(url)
    for _ in range(MAX_REDIRECTS + 1):
        if not (url.startswith("https://") or (may_be_plain and _is_plain_loopback(url))):
            raise DownloadFailed(
                "A model is fetched by https:// only (by http:// on loopback); its address is another."
            )
        try:
            response = pool.request(
                "GET", url, headers=headers, timeout=_TIMEOUT, retries=False, redirect=False, preload_content=False
            )
        except HTTPError as error:
            raise _Cut("the server cannot be reached") from error
        location = response.headers.get("location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            return response
        response.close()
        url = urljoin(url, location)
    raise DownloadFailed(f"The address leads through more than {MAX_REDIRECTS} redirects.")


def _is_plain_loopback(url: str) -> bool:
    """Whether a URL is plain HTTP to this machine, where no one else can read along."""
    return is_loopback_url(url) and urlsplit(url).scheme == "http"


def _is_right(path: Path, model: LocalModel) -> bool:
    if size_bytes(path) != model.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
