"""Run the parts of the comparison."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from benchmarks.peers import comparison, crowd, growth, lists, targets, turns

PARTS: dict[str, Callable[[], None]] = {
    "throughput": comparison.throughput,
    "latency": comparison.latency,
    "waiting": crowd.waiting,
    "in-flight": crowd.in_flight,
    "lists": lists.lists,
    "start": growth.start,
    "memory": growth.memory,
    "turns": turns.turns,
}


def run(parts: Sequence[str] = ()) -> None:
    """Run some parts, or all. A part that fails is reported as missed, and the others go on."""
    print(f" load of the machine before the start: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    previous = signal.signal(signal.SIGTERM, _exit)  # so that everything that was started is stopped
    try:
        for name in parts or PARTS:
            print(f" {name}", flush=True)
            try:
                PARTS[name]()
            except Exception as error:
                targets.MISSED.append(name)
                print(f"  FAILED: {type(error).__name__}: {error}", flush=True)
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(f" targets missed: {len(targets.MISSED) or 'none'}")
    for what in targets.MISSED:
        print(f"  {what}")


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
