"""Convert errors and statuses of HTTP to engine failures, and remove messages of engines that repeat the prompt."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    IncompleteRead,
    InvalidChunkLength,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HTTPTimeout

from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused

BROKE_OFF = "The engine broke off its answer."
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""More than the 4 MB of text that a task may store take up as JSON.

A text between the two limits is read, and refused later with an error that names its size.
"""
MAX_RETRY_AFTER_S = 600.0
_MAX_SHOWN_CHARS = 200
_RUN_CHARS = 16
"""A message that shares this many characters in a row with the prompt counts as a quotation of it."""
_BUSY = frozenset({408, 409, 425, 429})
_OVERLOADED = frozenset({429, 503, 529})
_GATEWAY_TIMEOUT = frozenset({504, 524})
"""With these statuses, the engine behind the gateway has received the prompt and may bill it."""
_CREDENTIALS = frozenset({401, 402, 403})
_UNKNOWN = frozenset({404, 405, 410})
_QUOTED = re.compile(r"""['"`]([^'"`]{4,})['"`]""")
_WORD = re.compile(r"[\w.@+-]{6,}")


class BadRequest(PromptRefused):
    """The engine refused the form of the call; it may accept another form."""


def failure_of_status(
    status: int, *, retry_after: str = "", message: str = "", private: Iterable[str] = ()
) -> EngineUnavailable | BadRequest:
    """Return the failure that belongs to an HTTP status.

    `message` is the engine's own message. The failure shows at most 200 characters of it, and leaves it out if it
    repeats any of the `private` texts.
    """
    if status in _BUSY or status >= 500:
        fault = "is busy" if status < 500 else "failed"
        return EngineUnavailable(
            f"The engine {fault} (HTTP {status}).",
            retry_after_s=parse_retry_after(retry_after),
            outage=status in _OVERLOADED,
            may_be_billed=status in _GATEWAY_TIMEOUT,
        )
    if status in _CREDENTIALS:
        return EngineUnavailable(f"The engine refused our credentials (HTTP {status}).", kind="credentials")
    if status in _UNKNOWN:
        return EngineUnavailable(f"The engine does not know the model or the path (HTTP {status}).", kind="garbage")
    if status < 400:
        return EngineUnavailable(f"The engine answered HTTP {status}; redirects are not followed.", kind="garbage")
    shown = redact(message, private)
    return BadRequest(f"The engine refused the prompt (HTTP {status}){': ' + shown if shown else '.'}")


def failure_of_http(error: HTTPError) -> EngineUnavailable:
    """Return the failure for an error of urllib3. The error's text is not shown, because it may contain addresses."""
    if isinstance(error, ConnectTimeoutError):
        return EngineUnavailable("The engine cannot be reached.", kind="unreachable")
    if isinstance(error, HTTPTimeout):
        return EngineUnavailable("The engine did not answer in time.", kind="timeout", may_be_billed=True)
    if isinstance(error, SSLError):
        return EngineUnavailable("The TLS connection to the engine failed.", kind="unreachable")
    if isinstance(error, IncompleteRead | InvalidChunkLength):
        return EngineUnavailable(BROKE_OFF, may_be_billed=True)
    if isinstance(error, ProtocolError):
        cause = error.args[-1]
        if isinstance(cause, TimeoutError):
            return EngineUnavailable("The engine did not take the prompt in time.", kind="timeout")
        if isinstance(cause, OSError | IncompleteRead):
            return EngineUnavailable("The engine closed the connection.", may_be_billed=True)
        return EngineUnavailable("The engine's answer is not valid HTTP.", kind="garbage")
    if isinstance(error, DecodeError):
        return unusable_answer("The engine's answer cannot be decoded.")
    return EngineUnavailable("The engine cannot be reached at the configured address.", kind="unreachable")


def failure_of_body(error: HTTPError) -> EngineUnavailable:
    """Return the failure for an error after the head of an answer; the engine may bill what it had written."""
    failure = failure_of_http(error)
    return failure if failure.may_be_billed else EngineUnavailable(BROKE_OFF, may_be_billed=True)


def unusable_answer(message: str) -> EngineUnavailable:
    """Return the failure for an answer that is not a completion; the engine may bill it."""
    return EngineUnavailable(message, kind="garbage", may_be_billed=True)


def too_large() -> EngineUnavailable:
    """Return the failure for an answer of more than `MAX_ANSWER_BYTES`."""
    return unusable_answer("The engine's answer is larger than 16 MiB.")


def parse_retry_after(value: str) -> float | None:
    """Return the seconds of a Retry-After field (RFC 9110, 10.2.3), limited to 0 to 600; None if it is not valid."""
    value = value.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        wait_s = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def redact(message: str, private: Iterable[str]) -> str:
    """Shorten an engine's message to one line of at most 200 characters; "" if it repeats any of the private texts."""
    text = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    if len(text) > _MAX_SHOWN_CHARS:
        text = text[: _MAX_SHOWN_CHARS - 1] + "…"
    for secret in private:
        if _repeats(text.casefold(), " ".join(secret.split()).casefold()):
            return ""
    return text


def _repeats(text: str, secret: str) -> bool:
    """Return whether a text repeats a secret: all of it, 16 of its characters, or a quoted or unusual word of it."""
    if len(secret) < _RUN_CHARS:
        return len(secret) > 3 and secret in text
    runs = [text[i : i + _RUN_CHARS] for i in range(len(text) - _RUN_CHARS + 1)]
    unusual_words = [word for word in _WORD.findall(text) if not (word.isascii() and word.isalpha())]
    return any(piece in secret for piece in (*runs, *_QUOTED.findall(text), *unusual_words))
