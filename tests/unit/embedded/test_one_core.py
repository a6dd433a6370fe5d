"""The threads of the embedded server stay on the core that other processes use least."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from llm_server.embedded import one_core, server
from llm_server.embedded.one_core import LOOK_S, MOVE_SHARE, OneCore
from support.scripted_engine import a_catalog, an_engine

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
STAT = """cpu  900 0 90 9000 0 0 0 0 0 0
cpu0 100 20 30 4000 7 4 5 6 11 12
cpu1 200 0 0 5000 0 0 0 0 0 0
intr 1 2 3
ctxt 4
"""


class Machine:
    """Cores that other processes and this one use; `look` follows `LOOK_S` seconds of that."""

    def __init__(self, cores: int) -> None:
        self.busy_s = dict.fromkeys(range(cores), 0.0)
        self.own_s = self.now_s = 0.0
        self.pins = list[int]()
        self._one_core = OneCore(
            lambda: dict(self.busy_s), own_s=lambda: self.own_s, pin=self.pins.append, clock_s=lambda: self.now_s
        )

    def look(self, others: Mapping[int, float], own: float = 0.0) -> int:
        """Let time pass in which others use these shares of the cores, and this process its core; return the core."""
        for core, share in others.items():
            self.busy_s[core] += share * LOOK_S
        if own:
            self.busy_s[self.pins[-1]] += own * LOOK_S
            self.own_s += own * LOOK_S
        self.now_s += LOOK_S
        self._one_core.look()
        return self.pins[-1]


def test_the_least_busy_core_is_chosen() -> None:
    assert Machine(3).look({0: 0.5, 1: 0.1, 2: 0.9}) == 1


def test_it_moves_only_if_another_core_is_clearly_better() -> None:
    """A move costs the contents of the core's cache."""
    machine = Machine(2)
    machine.look({0: 0.0, 1: 0.1})

    assert machine.look({0: MOVE_SHARE - 0.01}) == 0
    assert machine.look({0: MOVE_SHARE + 0.01}) == 1
    assert machine.look({1: MOVE_SHARE - 0.01}) == 1
    assert machine.pins == [0, 1]


def test_its_own_time_is_not_that_of_others() -> None:
    machine = Machine(2)
    machine.look({0: 0.0, 1: 0.1})

    assert machine.look({1: 0.1}, own=0.9) == 0
    assert machine.look({0: 0.4, 1: 0.1}, own=0.6) == 1


def test_what_was_long_ago_does_not_count() -> None:
    machine = Machine(2)
    machine.look({0: 0.0, 1: 1.0})
    machine.look({0: 0.0, 1: 1.0})

    assert machine.look({0: 0.5, 1: 0.0}) == 1


def test_a_core_that_disappears_is_left() -> None:
    machine = Machine(2)
    machine.look({0: 0.0, 1: 0.9})
    del machine.busy_s[0]

    assert machine.look({1: 0.9}) == 1


def test_where_no_core_is_known_the_threads_stay_where_they_are() -> None:
    """A container may number the cores of `/proc/stat` and those of a process differently."""
    pins = list[int]()
    OneCore(dict, own_s=lambda: 0.0, pin=pins.append, clock_s=lambda: 0.0).look()

    assert pins == []


def test_a_core_that_appears_is_not_chosen_for_what_it_did_before() -> None:
    machine = Machine(1)
    machine.look({0: 0.1})
    machine.busy_s[1] = 1_000.0

    assert machine.look({0: 0.5}) == 0
    assert machine.look({0: 0.5}) == 1


def test_a_failed_pin_is_tried_again_at_the_next_look() -> None:
    """For example, no file could be opened."""
    pins = list[int]()

    def pin(core: int) -> None:
        pins.append(core)
        if len(pins) == 1:
            raise OSError("Too many open files.")

    kept = OneCore(lambda: {0: 0.0, 1: 0.0}, own_s=lambda: 0.0, pin=pin, clock_s=lambda: 0.0)
    with pytest.raises(OSError, match="Too many"):
        kept.look()
    kept.look()
    kept.look()

    assert pins == [0, 0]


def test_busy_is_all_but_idle_and_waiting_for_disks() -> None:
    """What guests used is in the user time already (proc_stat(5))."""
    ticks = os.sysconf("SC_CLK_TCK")

    assert one_core._busy_s(STAT) == {0: (100 + 20 + 30 + 4 + 5 + 6) / ticks, 1: 200 / ticks}


@pytest.mark.parametrize("cores", [{3}, None])
def test_nothing_is_done_with_one_core_or_where_it_is_impossible(
    monkeypatch: pytest.MonkeyPatch, cores: set[int] | None
) -> None:
    """macOS has no such call."""
    if cores is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    before = threading.active_count()

    one_core.keep_to_one_core(threading.Event())

    assert threading.active_count() == before


def test_an_engine_that_computes_in_the_process_needs_all_cores() -> None:
    remote, inside = an_engine(), an_engine(kind="llamacpp", source="local", base_url=None)

    assert not server._needs_all_cores(a_catalog({"remote": remote}))
    assert server._needs_all_cores(a_catalog({"remote": remote, "inside": inside}))


PROGRAM = """
import json, os, threading, time
from pathlib import Path
from llm_server.embedded.one_core import keep_to_one_core

stopping, leave = threading.Event(), threading.Event()
def start(count):
    for _ in range(count):
        threading.Thread(target=leave.wait).start()
def cores():
    return [sorted(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]

start(4)
keep_to_one_core(stopping)
end = time.monotonic() + 10
while any(len(of) > 1 for of in cores()) and time.monotonic() < end:
    time.sleep(0.01)
start(4)
print(json.dumps(cores()))
stopping.set()
leave.set()
"""


@pytest.mark.skipif(CORES < 2, reason="Linux only, with two cores or more.")
def test_all_threads_of_a_process_stay_on_one_core() -> None:
    """Threads from before the call, and threads from after it."""
    source = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.run(
        command, env={"PYTHONPATH": source}, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    cores = json.loads(printed)

    assert len(cores) == 10
    assert len(cores[0]) == 1
    assert all(of == cores[0] for of in cores)
