"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): one task, however often its POST is sent."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.tasks.intake import KEY_FIELD

KEY = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--\[\]-~]{1,255})$'
"""A structured-field string (RFC 8941, 3.3.3) or the same without quotes, then without spaces and commas.

A comma stands between the lines of a header that were joined into one, as API Gateway does (RFC 9110, 5.3).
"""
INVALID = (
    f"The {KEY_FIELD} is not valid: send one, of 1 to 255 characters of printable ASCII; with a space, comma, quote or "
    "backslash in it put it in quotes, and a backslash before each quote and backslash."
)

KeyHeader = Annotated[
    Annotated[list[str], WithJsonSchema({"type": "string", "pattern": KEY})] | SkipJsonSchema[None],
    Header(
        description="The same key and body within 24 hours answer the same task; quoted or bare, up to 255 characters."
    ),
]


def key_of(lines: list[str] | None) -> str | None:
    """Read the key from the lines of its header; None without one. Raises InvalidInput unless they are one key."""
    if not lines:
        return None
    header = ",".join(lines)
    if not re.fullmatch(KEY, header):
        raise InvalidInput(KEY_FIELD, INVALID)
    return re.sub(r"\\(.)", r"\1", header[1:-1]) if header.startswith('"') else header
