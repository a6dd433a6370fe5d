"""The same thing from many threads, started together: what a race is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def at_once(act: Callable[[Given], Made], each: Sequence[Given]) -> list[Made]:
    """Do something once for each, in as many threads, all started together."""
    together = threading.Barrier(len(each))

    def started(given: Given) -> Made:
        together.wait()
        return act(given)

    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(started, each))
