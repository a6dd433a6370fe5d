"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a repeated POST creates one task."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from pydantic.json_schema import SkipJsonSchema, WithJsonSchema

from llm_server.orchestration.access.idempotency import HEADER
from llm_server.orchestration.domain.errors import InvalidInput

KEY = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--\[\]-~]{1,255})$'
"""Matches a structured-field string (RFC 8941, 3.3.3), or text without quotes, spaces, commas and backslashes.

API Gateway joins several lines of a header with commas (RFC 9110, 5.3), so a comma outside quotes means two keys.
"""
INVALID = (
    f"The {HEADER} is not valid: send one key of 1 to 255 printable ASCII characters; a key with a space, comma, "
    "quote or backslash must be in double quotes, with a backslash before each quote and backslash in it."
)

KeyHeader = Annotated[
    Annotated[list[str], WithJsonSchema({"type": "string", "pattern": KEY})] | SkipJsonSchema[None],
    Header(
        alias="Idempotency-Key",
        description="A text that the caller chooses for this one task, such as a UUID: 1 to 255 characters, with or "
        "without double quotes. Within 24 hours, a call with the same key and the same body returns the same task, and "
        "a call with the same key and another body is refused.",
        examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
    ),
]


def key_of(lines: list[str] | None) -> str | None:
    """Return the key from the lines of its header; None if the header was not sent.

    Raises:
        InvalidInput: the lines do not contain exactly one valid key.
    """
    if not lines:
        return None
    header = ",".join(lines)
    if not re.fullmatch(KEY, header):
        raise InvalidInput(HEADER, INVALID)
    return re.sub(r"\\(.)", r"\1", header[1:-1]) if header.startswith('"') else header
