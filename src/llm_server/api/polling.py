"""The pauses between two reads of the store in a Lambda function, where nothing tells of a change."""

from __future__ import annotations

import asyncio

FIRST_S = 0.02
MAX_S = 1.0
GROWTH = 1.5


class Pauses:
    """Pauses of 20 ms, then growing to 1 s, for at most `wait_s` seconds together, counted from now."""

    def __init__(self, wait_s: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + wait_s
        self._next_s = FIRST_S

    async def sleep(self) -> bool:
        """Sleep until the next read. Returns False at once if the time is over."""
        left_s = self._end - self._clock()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(self._next_s, left_s))
        self._next_s = min(self._next_s * GROWTH, MAX_S)
        return True
