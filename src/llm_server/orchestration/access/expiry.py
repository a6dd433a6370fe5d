"""Parse and check the time at which an API key expires."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from llm_server.orchestration.domain.errors import InvalidInput

FIELD = "expires_at"
MAX_EXPIRES_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the last year that RFC 3339 can express."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)


def parse_expires_at(text: str) -> int:
    """Convert an RFC 3339 date and time to Unix milliseconds. Fractions of a millisecond are cut off.

    Raises:
        InvalidInput: the text is not an RFC 3339 date and time, or has no offset from UTC.
    """
    try:
        if not _INSTANT.fullmatch(text):
            raise ValueError(text)
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError:
        detail = f"The field {FIELD} must be an RFC 3339 date and time with an offset, such as 2030-12-31T23:59:59Z."
        raise InvalidInput(FIELD, detail) from None


def checked_expiry(expires_ms: int | None, now_ms: int) -> int | None:
    """Check and return the time at which a key expires, in Unix milliseconds; None means never.

    Raises:
        InvalidInput: the time is not in the future, or is after the year 9999.
    """
    if expires_ms is not None and not now_ms < expires_ms <= MAX_EXPIRES_MS:
        raise InvalidInput(FIELD, f"The field {FIELD} must be in the future, and not after 9999-12-31T23:59:59Z.")
    return expires_ms
