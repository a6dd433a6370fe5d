"""The sweep wakes what is open and due, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from llm_server.orchestration.domain.ports import Due
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.store import SqliteStore
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served


def lose_messages(served: Served) -> None:
    """As a purged queue, a crash before the send, or a message that expired."""
    while served.queue.receive(0):
        pass


def claim(served: Served, ref: TaskRef) -> None:
    """A worker takes the task and is never heard of again."""
    now_ms, task = served.clock(), served.store.peek(ref)
    served.store.save(task, task.claimed(owner="dead", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False))


def test_a_task_whose_message_was_lost_is_woken(served: Served) -> None:
    """Once it is due, not before."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S - 0.001)
    assert served.service.sweep() == 0

    served.clock.pass_s(0.001)
    assert (served.service.sweep(), served.work()) == (1, 1)

    assert served.get(ref).task.status is Status.COMPLETED
    assert served.service.sweep() == 0


def test_a_dead_workers_task_is_final_soon_after_its_lease(served: Served) -> None:
    """The claim comes late, at 100 s; a sweep a minute finds the end of the lease."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(100)
    claim(served, ref)
    for _ in range(LEASE_S // 60 + 1):
        served.clock.pass_s(60)
        served.service.sweep()
        served.work()

    assert served.get(ref).result == "Hello."


def test_a_worker_at_work_is_left_alone_until_its_lease_ends(served: Served) -> None:
    """The task is looked at again at that moment."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    claim(served, ref)

    assert (served.service.sweep(), served.queue.depth()) == (0, 0)
    lease_ms = served.clock.now_ms + LEASE_S * 1000
    assert list(served.store.due(lease_ms - 1)) == []
    assert list(served.store.due(lease_ms)) == [Due(ref, lease_ms)]


def test_a_merely_long_queue_is_not_made_longer(served: Served) -> None:
    """Every task still has its message: none is sent again, and the next look comes later each time."""
    for _ in range(5):
        served.submit()
    for age_s in (SWEEP_S, 2 * SWEEP_S, 4 * SWEEP_S):
        served.clock.now_ms = served.get(served.refs[0]).task.created_ms + age_s * 1000
        assert served.service.sweep() == 0
        assert list(served.store.due(served.clock.now_ms + age_s * 1000 - 1)) == []
        assert len(list(served.store.due(served.clock.now_ms + age_s * 1000))) == 5

    assert (served.queue.depth(), served.queue.sends) == (5, 5)


def test_one_lost_message_is_found_behind_others_that_are_not(served: Served) -> None:
    """The queue is shorter than what waits: then everything due is woken, and doubled wake-ups are harmless."""
    for _ in range(3):
        served.submit()
    served.queue.receive(0)
    served.clock.pass_s(SWEEP_S)

    assert served.service.sweep() == 3
    served.work()

    assert all(served.get(ref).task.status is Status.COMPLETED for ref in served.refs)
    assert len(served.engine.calls) == 3


def test_a_lost_message_is_found_behind_the_tasks_of_a_dead_worker(served: Served) -> None:
    """The messages that the sweep sends for those are no sign that this one has its own."""
    deserted, forgotten = served.submit(), served.submit()
    lose_messages(served)
    claim(served, deserted)
    served.clock.pass_s(SWEEP_S)

    assert served.service.sweep() == 2
    assert served.work() == 2

    assert {served.get(ref).task.status for ref in (deserted, forgotten)} == {Status.COMPLETED}


def test_a_task_that_stays_open_is_woken_less_and_less(served: Served) -> None:
    """Each time after as long again as it has been waiting: 2, 4, 8 minutes after it was accepted."""
    ref = served.submit()
    created_ms = served.get(ref).task.created_ms
    woken_at: list[float] = []
    for _ in range(17):
        lose_messages(served)
        if served.service.sweep():
            woken_at.append((served.clock.now_ms - created_ms) / 60_000)
        served.clock.pass_s(60)

    assert woken_at == [2, 4, 8, 16]


def test_sweeps_at_the_same_time_send_once(served: Served) -> None:
    """The due time is moved on before the message is sent, and by one of them only."""
    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    sends = served.queue.sends

    with ThreadPoolExecutor(4) as pool:
        woken = list(pool.map(lambda _: served.service.sweep(), range(4)))

    assert (sum(woken), served.queue.sends - sends) == (1, 1)


def test_a_sweep_that_cannot_send_counts_nothing_and_comes_again(served: Served) -> None:
    """The task stays due, later."""
    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    served.queue.down = True
    assert served.service.sweep() == 0
    served.queue.down = False

    served.clock.pass_s(SWEEP_S)
    assert served.service.sweep() == 1


def test_a_task_that_is_gone_does_not_stop_the_sweep(served: Served) -> None:
    """The index may name what has just been deleted."""

    class Haunted(SqliteStore):
        def due(self, now_ms: int) -> Iterator[Due]:
            yield Due(TaskRef("local", "gone"), now_ms)
            yield from super().due(now_ms)

    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)

    with closing(Haunted(served.path)) as store:
        assert served.use(a_catalog({"only": an_engine()}), store).sweep() == 1


def test_a_task_that_kills_every_worker_ends_and_is_swept_no_more(served: Served) -> None:
    """Three deliveries, each ended by a crash; then it is Failed and says why."""
    served.engine = ScriptedEngine(ZeroDivisionError())
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    for _ in range(30):
        served.service.sweep()
        while message := served.queue.receive(0):
            with suppress(ZeroDivisionError):
                served.service.process(message, owner="w")
        served.clock.pass_s(60)

    assert served.get(ref).task.error == "The task was given up: workers took it 3 times without progress."
    assert len(served.engine.calls) == 3
    assert list(served.store.due(served.clock.now_ms + 10**9)) == []


@pytest.mark.parametrize("done", range(3))
def test_nothing_is_lost_wherever_the_messages_vanish(served: Served, done: int) -> None:
    """All of them, after some were worked on."""
    for _ in range(3):
        served.submit()
    for _ in range(done):
        ref = served.queue.receive(0)
        assert ref
        served.service.process(ref, owner="w")
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    served.service.sweep()
    served.work()

    assert all(served.get(ref).task.status is Status.COMPLETED for ref in served.refs)
    assert len(served.engine.calls) == 3
