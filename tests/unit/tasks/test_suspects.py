"""Tasks whose workers died, twice in a row: one of them may be what kills them."""

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
    """A task whose workers have died so many times, its last lease over."""
    ref = served.submit()
    for _ in range(times):
        task = served.store.peek(ref)
        now_ms = served.clock()
        claimed = task.claimed(owner="dead", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False)
        served.store.save(task, claimed)
        served.clock.pass_s(LEASE_S)
    return ref


class Meeting:
    """An engine's answer that waits a moment for another call to be under way; `met` says whether one was."""

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
def test_of_tasks_whose_workers_died_twice_one_is_worked_on_at_a_time(
    tmp_path: Path, deaths: int, together: bool
) -> None:
    """So those that were only there when a worker died get through before, or wait unclaimed behind, the one."""
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


def test_a_suspect_that_somebody_works_on_is_not_waited_for(tmp_path: Path) -> None:
    """A second wake-up for it finds it busy at once; its worker thread is free for others."""

    def meanwhile(call: EngineCall) -> str:
        served.service.process(ref, owner="second")
        return "Hello."

    served = Served(tmp_path, ScriptedEngine(meanwhile))
    ref = deserted(served, 2)

    served.service.process(ref, owner="first")

    assert served.store.peek(ref).status == "Completed"
    served.audit()
    served.close()
