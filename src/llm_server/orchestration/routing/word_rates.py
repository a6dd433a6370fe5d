"""How many prompts have a word: a packaged table, for roles that the configuration adds.

The file starts with a line of JSON. One byte for each row of a hashed table follows: the rate is exp(-byte / scale).
`tools/train` makes the file from data/routing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from functools import cache

from msgspec import Struct

from llm_server.orchestration.routing.features import bucket

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # os.path, because importing pathlib takes 4 ms
FILE = os.path.join(_PACKAGE, "data", "word_rates.bin")


class WordRates(Struct, frozen=True, kw_only=True):
    """The shares of prompts that have a feature; `features` is how many features a prompt has on average."""

    levels: Sequence[float]
    rows: bytes
    bits: int
    features: float

    def rate(self, feature: str) -> float:
        """Return the share of prompts that have a feature, above 0; features of the same row share a rate."""
        return self.levels[self.rows[bucket(feature, self.bits)]]


def parse(data: bytes) -> WordRates:
    """Read the content of a data file."""
    head, _, rows = data.partition(b"\n")
    found = json.loads(head)
    levels = [math.exp(-byte / found["scale"]) for byte in range(256)]
    return WordRates(levels=levels, rows=rows, bits=found["bits"], features=found["features"])


@cache
def load() -> WordRates:
    """Return the rates of the package's data file; it is read at the first call only."""
    with open(FILE, "rb") as data:
        return parse(data.read())
