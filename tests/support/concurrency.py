"""Run the same function in many threads that start together, for tests of races."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def at_once(act: Callable[[Given], Made], each: Sequence[Given]) -> list[Made]:
    """Call a function for each item, in as many threads, which all start together."""
    together = threading.Barrier(len(each))

    def started(given: Given) -> Made:
        together.wait()
        return act(given)

    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(started, each))
