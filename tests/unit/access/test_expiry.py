"""Parsing of `expires_at`, the time at which a key expires."""

from __future__ import annotations

import pytest

from llm_server.orchestration.access.expiry import parse_expires_at
from llm_server.orchestration.domain.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "expires_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2025-10-09T08:53:20Z", 1_760_000_000_000),
        ("2025-10-09t10:53:20.5+02:00", 1_760_000_000_500),
        ("2025-10-09T08:53:20.123999999z", 1_760_000_000_123),
        ("2025-10-08T23:53:20-09:00", 1_760_000_000_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("9999-12-31T23:59:59-23:59", 253_402_387_139_000),
    ],
)
def test_an_rfc_3339_time_is_read_to_the_millisecond(text: str, expires_ms: int) -> None:
    assert parse_expires_at(text) == expires_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2030-12-31",
        "2030-12-31T23:59:59",
        "2030-12-31 23:59:59Z",
        "20301231T235959Z",
        "2030-W01-1T00:00:00Z",
        "2030-02-30T00:00:00Z",
        "2030-12-31T24:00:01Z",
        "2030-12-31T23:59:60Z",
        "2030-12-31T23:59:59+24:00",
        "2030-12-31T23:59:59+2:00",
        "2030-12-31T23:59:59Z\n",
        "203٠-12-31T23:59:59Z",
        "2030-12-31T23:59:59.٠Z",
        "0000-01-01T00:00:00Z",
        "1893455999",
    ],
)
def test_any_other_text_is_refused_with_an_example(text: str) -> None:
    """A time without an offset is refused too: it would mean a different instant on each machine."""
    with pytest.raises(InvalidInput, match="such as 2030-12-31T23:59:59Z") as refused:
        parse_expires_at(text)

    assert refused.value.field == "expires_at"
