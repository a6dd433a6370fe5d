"""The content of messages: a text, or a list of parts with texts and images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from llm_server.api.openai.requests.reading import Part
from llm_server.orchestration.domain.engines.message import Image

_DATA_URL = re.compile(r"data:(image/[A-Za-z0-9.+-]+);base64,([A-Za-z0-9+/=\s]*)")
_TEXTS: Mapping[str, str] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "summary_text": "text",
}
"""The kinds of parts that are texts, each with the field that has it."""
Kind = Literal["image_url", "input_image"]


def content(message: Part, name: str = "content", *, images: Kind | None = None) -> tuple[str, tuple[Image, ...]]:
    """Return the text and the images of a message; the texts of its parts are joined by line breaks.

    `images` is the kind of parts that are images; None if the message may have none. Raises InvalidInput.
    """
    if not isinstance(message.value(name), list):
        return message.text(name) or "", ()
    texts, found = list[str](), list[Image]()
    for part in message.parts(name):
        kind = part.needed_text("type")
        if kind in _TEXTS:
            texts.append(part.needed_text(_TEXTS[kind]))
        elif kind == images:
            found.append(_image(part))
        else:
            accepted = ", ".join(sorted([*_TEXTS, *([images] if images else [])]))
            part.fail("type", f"is {kind[:40]!r}, which this server does not accept there; accepted are {accepted}")
    return "\n".join(texts), tuple(found)


def _image(part: Part) -> Image:
    """Read an image: Chat Completions has the URL in an object, Responses has it in the part itself."""
    if part.has("file_id"):
        part.fail("file_id", "is not supported, because this server keeps no files; send the image as a data URL")
    held = part.part("image_url") if isinstance(part.value("image_url"), dict) else None
    name = "url" if held else "image_url"
    url = (held or part).needed_text(name)
    if not url.startswith("data:"):
        if not url.startswith(("https://", "http://")):
            (held or part).fail(name, "must be a data URL with an image in base64, or an http or https URL")
        return Image(url=url)
    data = _DATA_URL.fullmatch(url)
    if data is None:
        (held or part).fail(name, "must be a data URL with an image in base64: data:image/png;base64,...")
    return Image(media_type=data[1], data=re.sub(r"\s", "", data[2]))
