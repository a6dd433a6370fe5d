"""Check the images of a new task: their number, types and sizes, and whether they may be given by a URL."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from urllib.parse import urlsplit

from llm_server.orchestration.domain.engines.message import Image
from llm_server.orchestration.domain.errors import InvalidInput

FIELD = "attachments"
MAX_IMAGES = 16
MAX_BYTES = 5_000_000
MAX_BYTES_TOGETHER = 15_000_000
"""The images of a task are sent with each of its engine calls, and APIs take requests of about 20 to 30 MB."""
MAX_URL_CHARS = 2_000
_BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
MEDIA_TYPES = tuple(_BEGINNINGS)
_DATA_URL = re.compile(r"data:([a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40});base64,", re.IGNORECASE)


def of_url(number: int, url: str) -> Image:
    """Return the image of a data URL (RFC 2397), or the image that is found at an https:// URL.

    Raises:
        InvalidInput: the URL is of another kind.
    """
    if found := _DATA_URL.match(url):
        return Image(media_type=found[1].lower(), data=url[found.end() :])
    if url[:8].lower() == "https://":
        return Image(url=url)
    message = f"The url of attachment {number} must be a data URL, data:image/png;base64,..., or begin with https://."
    raise InvalidInput(FIELD, message)


def check(images: Sequence[Image], *, remote: bool) -> None:
    """Check all images of a task. `remote`: an image may be given by the URL where the engine finds it.

    Raises:
        InvalidInput: there are too many or too large ones, a type is not accepted, the data is not base64 or not of its
            type, or a URL is not allowed.
    """
    if len(images) > MAX_IMAGES:
        raise InvalidInput(FIELD, f"The task has {len(images)} images; at most {MAX_IMAGES} are accepted.")
    sizes = [
        _check_url(number, image, remote=remote) if image.url else _size(number, image)
        for number, image in enumerate(images, start=1)
    ]
    if sum(sizes) > MAX_BYTES_TOGETHER:
        message = f"The images have {sum(sizes):,} bytes together; at most {MAX_BYTES_TOGETHER:,} are accepted."
        raise InvalidInput(FIELD, message)


def _size(number: int, image: Image) -> int:
    """Check an image that is sent as data, and return how many bytes it has."""
    if image.media_type not in _BEGINNINGS:
        accepted = ", ".join(MEDIA_TYPES)
        raise InvalidInput(FIELD, f"Image {number} has the type {image.media_type[:60]!r}; accepted are {accepted}.")
    try:
        data = b64decode(image.data, validate=True)
    except ValueError:
        raise InvalidInput(FIELD, f"The data of image {number} is not valid base64.") from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(FIELD, f"Image {number} has {len(data):,} bytes; at most {MAX_BYTES:,} are accepted.")
    if not data.startswith(_BEGINNINGS[image.media_type]):
        raise InvalidInput(FIELD, f"The data of image {number} is not of the type {image.media_type}.")
    return len(data)


def _check_url(number: int, image: Image, *, remote: bool) -> int:
    """Check an image that the engine would fetch. It has no bytes here."""
    if not remote:
        message = (
            f"Image {number} is given by a URL, which this server does not allow; send a data URL: "
            "data:image/png;base64,... (an operator can allow URLs with LLM_SERVER_REMOTE_IMAGES)."
        )
        raise InvalidInput(FIELD, message)
    try:
        parts = urlsplit(image.url)
        is_https = parts.scheme == "https" and bool(parts.hostname) and not parts.username
    except ValueError:
        is_https = False
    if not is_https or len(image.url) > MAX_URL_CHARS or not image.url.isprintable() or " " in image.url:
        message = (
            f"The URL of image {number} is not an https:// URL of at most {MAX_URL_CHARS:,} characters without user."
        )
        raise InvalidInput(FIELD, message)
    return 0
