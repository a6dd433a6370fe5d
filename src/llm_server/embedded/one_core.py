"""Keeps the threads of this process on one core, the one that other processes use least (Linux).

Python runs one thread at a time. On several cores, a change from one thread to another wakes a thread on another core,
which costs more than most of the work in between; on one core it does not (ADR 28).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

LOOK_S = 2.0
MOVE_SHARE = 0.25
"""The threads move if another core was less busy with other processes by this share of the time since the last look."""


class OneCore:
    """Chooses the core. `busy_s` returns for each core the seconds that it was busy since any fixed point in time.

    `own_s` returns the CPU seconds of this process, `pin` keeps its threads on a core, and `clock_s` is the time.
    """

    def __init__(
        self,
        busy_s: Callable[[], Mapping[int, float]],
        *,
        own_s: Callable[[], float] = time.process_time,
        pin: Callable[[int], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._busy_s, self._own_s, self._pin, self._clock_s = busy_s, own_s, pin, clock_s
        self._core: int | None = None
        self._last = busy_s(), own_s(), clock_s()

    def look(self) -> None:
        """Choose a core, or leave the threads where they are."""
        last_busy, last_own, last_time = self._last
        self._last = busy, own, now = self._busy_s(), self._own_s(), self._clock_s()
        others = {core: busy[core] - last_busy.get(core, 0.0) for core in busy}
        if self._core in others:
            others[self._core] -= own - last_own
        if not others:  # a container may number its cores otherwise than /proc/stat
            return
        best = min(others, key=others.__getitem__)
        if self._core not in others or others[best] + MOVE_SHARE * (now - last_time) < others[self._core]:
            self._pin(best)
            self._core = best


def keep_to_one_core(stopping: threading.Event) -> None:
    """Start a thread that keeps the process to one core until `stopping` is set.

    Does nothing where the operating system cannot do that, or where the process has only one core already.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2 or not _STAT.exists():
        return

    def busy_s() -> dict[int, float]:
        return {core: busy for core, busy in _busy_s(_STAT.read_text(encoding="ascii")).items() if core in cores}

    one_core = OneCore(busy_s, pin=_pin)

    def keep() -> None:
        while True:
            with suppress(OSError):  # no file can be opened now; the next look tries again
                one_core.look()
            if stopping.wait(LOOK_S):
                return

    threading.Thread(target=keep, name="core", daemon=True).start()


_STAT = Path("/proc/stat")
_TASKS = Path("/proc/self/task")


def _busy_s(stat: str) -> dict[int, float]:
    """Return how long each core was busy since the start of the machine, in seconds; `stat` is as in proc_stat(5)."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = {}
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, fields)
            busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) / ticks
    return busy


def _pin(core: int) -> None:
    """Keep all threads on a core; each thread that is started later inherits that from the one that starts it."""
    for _ in range(2):  # a thread may be started while the first pass runs
        for task in os.listdir(_TASKS):
            with suppress(OSError):  # the thread has ended, or the core was taken away from the process
                os.sched_setaffinity(int(task), {core})
