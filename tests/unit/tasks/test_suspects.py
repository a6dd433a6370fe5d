"""Suspects: tasks whose workers died twice in a row, so that one of them may be the cause."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_server.orchestration.domain.engine_call import EngineCall
from llm_server.orchestration.domain.task import TaskRef
from support.scripted_engine import WAIT_S, ScriptedEngine
from support.scripted_service import LEASE_S, Served


def deserted(served: Served, times: int) -> TaskRef:
    """Submit a task, let `times` workers claim it and die, and let the last lease end."""
    ref = served.submit()
    for _ in range(times):
        task = served.store.peek(ref)
        now_ms = served.clock()
        claimed = task.claimed(owner="dead", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
        served.store.save(task, claimed)
        served.clock.pass_s(LEASE_S)
    return ref


class Meeting:
    """An engine's answer that waits briefly for a second concurrent call; `met` tells whether one came."""

    def __init__(self, wait_s: float) -> None:
        self.met = False
        self._both = threading.Barrier(2, timeout=wait_s)

    def __call__(self, call: EngineCall) -> str:
        try:
            self._both.wait()
            self.met = True
        except threading.BrokenBarrierError:
            self._both.reset()
        return "Hello."


@pytest.mark.parametrize(("deaths", "together"), [(1, True), (2, False)])
def test_tasks_whose_workers_died_twice_are_processed_one_at_a_time(
    tmp_path: Path, deaths: int, together: bool
) -> None:
    """A harmless suspect then completes first, or waits unclaimed while the harmful one runs."""
    meeting = Meeting(WAIT_S if together else 0.1)
    served = Served(tmp_path, ScriptedEngine(meeting))
    refs = [deserted(served, deaths) for _ in range(2)]
    served.clock.pass_s(LEASE_S)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda ref: served.service.process(ref, owner="w"), refs))

    assert meeting.met is together
    assert {served.store.peek(ref).status for ref in refs} == {"Completed"}
    served.audit()
    served.close()


def test_a_second_wake_up_for_a_suspect_in_progress_returns_at_once(tmp_path: Path) -> None:
    """Its worker thread is free for other tasks."""

    def meanwhile(call: EngineCall) -> str:
        served.service.process(ref, owner="second")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile))
    ref = deserted(served, 2)

    served.service.process(ref, owner="first")

    assert served.store.peek(ref).status == "Completed"
    served.audit()
    served.close()
