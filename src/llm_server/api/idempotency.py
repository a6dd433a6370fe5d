"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): one task, however often its POST is sent."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from pydantic.json_schema import SkipJsonSchema

from llm_server.orchestration.errors import InvalidInput
from llm_server.orchestration.intake import KEY_FIELD

KEY = r'^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-\[\]-~]{1,255})$'
"""A structured-field string (RFC 8941, 3.3.3) or the same without quotes, then without spaces."""

KeyHeader = Annotated[
    str | SkipJsonSchema[None],
    Header(
        description="The same key and body within 24 hours answer the same task; quoted or bare, up to 255 characters.",
        json_schema_extra={"pattern": KEY},
    ),
]


def key_of(header: str | None) -> str | None:
    """Read the key; None without the header. Raises InvalidInput when it is none."""
    if header is None:
        return None
    if not re.fullmatch(KEY, header):
        detail = (
            f"The {KEY_FIELD} is not valid: 1 to 255 characters of printable ASCII, in quotes where one is a space."
        )
        raise InvalidInput(KEY_FIELD, detail)
    return re.sub(r"\\(.)", r"\1", header[1:-1]) if header.startswith('"') else header
