"""Which POST is repeated: OpenAI's client libraries send no Idempotency-Key, but number the repeats in a header."""

from __future__ import annotations

from hashlib import sha256

from fastapi import Request

from llm_server.api import idempotency
from llm_server.orchestration.access.repeats import Repeatable
from llm_server.orchestration.domain.api_key import Caller

NUMBER = "x-stainless-retry-count"
_READ_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
"""The header of the Python library and that of the Node library, in seconds."""
DEFAULT_READ_S = 600.0
MAX_READ_S = 3600.0


async def once(request: Request, caller: Caller, idempotency_key: list[str] | None) -> str | Repeatable | None:
    """Return what makes a repeated POST find its task; None if the client says nothing that does.

    Raises:
        InvalidInput: the Idempotency-Key is not valid.
    """
    number = request.headers.get(NUMBER, "")
    if idempotency_key or not _is_number(number):
        return idempotency.key_of(idempotency_key)
    key_id = caller.payer.key_id if caller.payer else ""
    said = "\0".join([key_id, request.url.path, ""]).encode() + await request.body()
    return Repeatable(fingerprint=sha256(said).hexdigest(), number=int(number), read_timeout_s=_read_s(request))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def _read_s(request: Request) -> float:
    """Return how long the client waits for an answer, in seconds: at most an hour, 600 if it does not say it."""
    for name in _READ_TIMEOUTS:
        try:
            read_s = float(request.headers.get(name, ""))
        except ValueError:
            continue
        if read_s > 0:  # not nan
            return min(read_s, MAX_READ_S)
    return DEFAULT_READ_S
