"""The body of a request: one strict JSON document.

JSON that two parsers could read differently is refused, such as duplicate keys and NaN (RFC 8259, RFC 7493).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from fastapi import Request

from llm_server.api.error_codes import Refusal


class StrictRequest(Request):
    """A request whose body is limited, and parsed strictly."""

    async def body(self) -> bytes:
        """Return the body, of at most `max_body_bytes`.

        The framework's own limit is not used, because it would answer in plain text and without our headers.
        """
        if not hasattr(self, "_body"):
            max_bytes = self.app.state.max_body_bytes
            if _declared_length(self.headers.get("content-length", "")) > max_bytes:
                raise _too_large(max_bytes)
            received = bytearray()
            async for chunk in self.stream():
                received += chunk
                if len(received) > max_bytes:
                    raise _too_large(max_bytes)
            self._body = bytes(received)
        return self._body

    async def json(self) -> Any:
        """Return the JSON document in the body.

        Raises:
            Refusal: 415 or 400. The body is not sent as application/json in UTF-8, is compressed or empty, or `parse`
                refuses it.
        """
        media_type, _, parameters = self.headers.get("content-type", "").partition(";")
        if media_type.strip().lower() != "application/json":
            raise Refusal("content_type_not_json", "Send JSON, with the header Content-Type: application/json.")
        if parameters:
            _check_charset(parameters)
        if "content-encoding" in self.headers:
            _check_encoding(self.headers.getlist("content-encoding"))
        body = await self.body()
        if not body.strip():
            raise Refusal("body_empty", "The body is empty; send a JSON object.")
        return parse(body)


def parse(body: bytes) -> Any:
    """Parse one JSON document in UTF-8.

    Raises:
        Refusal: 400. The body is not JSON or not UTF-8, has a duplicate key, NaN, an infinite or too long number or
            half of a surrogate pair, or is nested too deeply.
    """
    try:
        text = body.decode()
        if text.startswith("\ufeff"):
            raise Refusal("body_encoding_invalid", "The body begins with a byte order mark; leave it out.")
        value = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can make half of a surrogate pair, and encoding fails on it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Refusal("body_encoding_invalid", "The body is not valid UTF-8.") from error
    except UnicodeEncodeError as error:
        raise Refusal("body_encoding_invalid", "The body contains half of a surrogate pair.") from error
    except json.JSONDecodeError as error:
        detail = f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise Refusal("body_json_invalid", detail) from error
    except RecursionError as error:
        raise Refusal("body_too_deep", "The body is nested too deeply.") from error
    except ValueError as error:  # Python limits the digits of an integer
        raise Refusal("body_number_invalid", "The body contains a number with too many digits.") from error
    return value


def _check_charset(parameters: str) -> None:
    for name in _CHARSET.findall(parameters):
        if name.lower() not in ("utf-8", "utf8"):
            detail = f"The body has the charset {name[:40]!r}; send UTF-8: Content-Type: application/json."
            raise Refusal("charset_not_utf8", detail)


def _check_encoding(values: list[str]) -> None:
    for name in ",".join(values).split(","):
        if name.strip().lower() not in ("", "identity"):
            detail = f"The body has the Content-Encoding {name.strip()[:40]!r}; send it without compression."
            raise Refusal("content_encoding_not_accepted", detail)


def _too_large(max_bytes: int) -> Refusal:
    return Refusal("body_too_large", f"The body is too large; at most {max_bytes} bytes are accepted.")


def _declared_length(text: str) -> float:
    """Return the number in a Content-Length header, or 0 if it is not a number. Received bytes are counted as well."""
    return float(text) if text.isascii() and text.isdigit() else 0


def _not_a_number(name: str) -> NoReturn:
    raise Refusal("body_number_invalid", f"The body contains {name}, which is not a JSON number.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refusal("body_number_invalid", "The body contains a number too large for a 64-bit float.")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, content in pairs:
        if name in value:
            raise Refusal("body_key_repeated", f"The body contains the key {name[:60]!r} twice in one object.")
        value[name] = content
    return value


_CHARSET = re.compile(r"""(?:^|;)\s*charset\s*=\s*["']?([^"';\s]*)""", re.IGNORECASE)
_DECODER = json.JSONDecoder(parse_constant=_not_a_number, parse_float=_finite, object_pairs_hook=_without_duplicates)
