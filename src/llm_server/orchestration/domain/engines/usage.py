"""The tokens of an engine call, divided into the classes that may have different prices."""

from __future__ import annotations

import math

from msgspec import Struct

CHARACTERS_PER_TOKEN = 4


class Usage(Struct, frozen=True, kw_only=True):
    """The tokens of one engine call.

    The four classes of input do not overlap: tokens that were neither read from nor written to the engine's prompt
    cache, tokens read from it, tokens written to it for an hour, and all other tokens written to it (for 5 minutes, or
    for a time that the engine did not report). `reasoning_tokens` are a part of `output_tokens`.

    `estimated`: the engine did not report all counts, so the missing ones are estimates. `implausible`: the engine
    reported counts that cannot be true; they were replaced.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    implausible: bool = False

    @property
    def tokens_in(self) -> int:
        """All tokens of the input, with those of the cache."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens + self.cache_write_1h_tokens


def estimate_tokens(text: str) -> int:
    """Estimate tokens: one for four ASCII characters (usual for English), one for any other character; rounded up."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_characters / CHARACTERS_PER_TOKEN) + len(text) - ascii_characters
