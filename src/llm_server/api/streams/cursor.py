"""What a request says of a stream: after which event it goes on, and in which form it comes."""

from __future__ import annotations

from collections.abc import Iterable

MAX_NUMBER = 2**53 - 1
"""The largest number of an event: every JSON parser reads it exactly."""
EVENT_STREAM = "text/event-stream"
_JSON = "application/json"


def start(starting_after: int, last_event_id: int | None) -> int:
    """Return the number after which a reader goes on.

    The header wins: a browser's EventSource repeats the address that it was opened with, and adds the header.
    """
    return starting_after if last_event_id is None else last_event_id


def wants_stream(accept: Iterable[str]) -> bool:
    """Return whether the lines of an Accept header (RFC 9110, 12.5.1) prefer an event stream to JSON.

    If both are as good, the one that is named more exactly is chosen, else JSON.
    """
    ranges = [_range(part) for line in accept for part in line.split(",") if part.strip()]
    stream, json = _quality(ranges, EVENT_STREAM), _quality(ranges, _JSON)
    return stream[0] > 0 and stream > json


def _range(part: str) -> tuple[str, float]:
    """Return a media range and its quality; a quality that is not a number counts as 1."""
    name, *parameters = (text.strip().lower() for text in part.split(";"))
    quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 1.0


def _quality(ranges: Iterable[tuple[str, float]], media_type: str) -> tuple[float, int]:
    """Return the quality of a media type, and how exactly the range that gives it names the type, from 0 to 2."""
    patterns = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    found = [(patterns.index(name), quality) for name, quality in ranges if name in patterns]
    exactness, quality = max(found, default=(0, 0.0))
    return quality, exactness
