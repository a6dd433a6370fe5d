"""Finds structured data in an engine's answer, which may wrap it in prose or a code fence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_LOOSE_BRACES = 1_000
"""Where so many braces open no JSON object, none is looked for any longer: each try costs time."""


def json_objects(text: str) -> Iterator[Any]:
    """The JSON objects in a text, none from inside another; at nesting nobody writes the search ends."""
    decoder = json.JSONDecoder()
    start, loose = text.find("{"), 0
    while start >= 0 and loose < MAX_LOOSE_BRACES:
        try:
            found, end = decoder.raw_decode(text, start)
        except RecursionError:
            return
        except ValueError:
            end, loose = start + 1, loose + 1
        else:
            yield found
        start = text.find("{", end)
