"""Find JSON objects in an engine's answer, which may wrap them in prose or a code fence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_LOOSE_BRACES = 1_000
"""The search ends after this many braces that did not begin a JSON object, because each attempt takes time."""


def json_objects(text: str) -> Iterator[Any]:
    """Yield the JSON objects in a text, without those inside other objects.

    The search ends early at an object that is nested too deeply for Python's parser.
    """
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
