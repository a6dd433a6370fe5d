"""Conditional requests (RFC 9110, section 13): does the caller already have the current state?"""

from __future__ import annotations


def matches(if_none_match: str, etag: str) -> bool:
    """Return whether an `If-None-Match` header has the ETag or `*`, by weak comparison (section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
