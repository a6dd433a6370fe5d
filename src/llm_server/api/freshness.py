"""Conditional requests (RFC 9110, section 13): has the caller this state already?"""

from __future__ import annotations


def matches(if_none_match: str, etag: str) -> bool:
    """Tell whether an `If-None-Match` header names the ETag, by weak comparison (section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
