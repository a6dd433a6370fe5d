"""The sweep wakes tasks that are open and due, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from llm_server.orchestration.domain.ports.tasks import Due
from llm_server.orchestration.domain.status import Status
from llm_server.orchestration.domain.task import TaskRef
from llm_server.storage.sqlite.database import Database
from llm_server.storage.sqlite.store import SqliteStore
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import LEASE_S, SWEEP_S, Served


def lose_messages(served: Served) -> None:
    """Empty the queue, as if it was purged, a server crashed before the send, or the messages expired."""
    while served.queue.receive(0):
        pass


def claim(served: Served, ref: TaskRef) -> None:
    """Let a worker claim the task and then die."""
    now_ms, task = served.clock(), served.store.peek(ref)
    served.store.save(task, task.claimed(owner="dead", now_ms=now_ms, lease_ms=now_ms + LEASE_S * 1000, has_plan=False))


def test_a_task_whose_message_was_lost_is_woken(served: Served) -> None:
    """It is woken once it is due, not before."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S - 0.001)
    assert served.service.sweep() == 0

    served.clock.pass_s(0.001)
    assert (served.service.sweep(), served.work()) == (1, 1)

    assert served.get(ref).task.status is Status.COMPLETED
    assert served.service.sweep() == 0


def test_a_dead_workers_task_is_completed_soon_after_its_lease_ends(served: Served) -> None:
    """The worker claimed it at 100 s; one sweep a minute finds the end of the lease."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(100)
    claim(served, ref)
    for _ in range(LEASE_S // 60 + 1):
        served.clock.pass_s(60)
        served.service.sweep()
        served.work()

    assert served.get(ref).result == "Hello."


def test_a_claimed_task_is_not_woken_until_its_lease_ends(served: Served) -> None:
    """It becomes due when the lease ends."""
    ref = served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    claim(served, ref)

    assert (served.service.sweep(), served.queue.depth()) == (0, 0)
    lease_ms = served.clock.now_ms + LEASE_S * 1000
    assert list(served.store.due(lease_ms - 1)) == []
    assert list(served.store.due(lease_ms)) == [Due(ref, lease_ms)]


def test_the_sweep_does_not_resend_messages_that_are_still_in_a_long_queue(served: Served) -> None:
    """Every task still has its message, so none is sent again, and each task becomes due later each time."""
    for _ in range(5):
        served.submit()
    for age_s in (SWEEP_S, 2 * SWEEP_S, 4 * SWEEP_S):
        served.clock.now_ms = served.get(served.refs[0]).task.created_ms + age_s * 1000
        assert served.service.sweep() == 0
        assert list(served.store.due(served.clock.now_ms + age_s * 1000 - 1)) == []
        assert len(list(served.store.due(served.clock.now_ms + age_s * 1000))) == 5

    assert (served.queue.depth(), served.queue.sends) == (5, 5)


def test_a_lost_message_is_found_although_others_still_wait(served: Served) -> None:
    """The queue has fewer messages than open tasks, so every due task is woken; duplicate wake-ups have no effect."""
    for _ in range(3):
        served.submit()
    served.queue.receive(0)
    served.clock.pass_s(SWEEP_S)

    assert served.service.sweep() == 3
    served.work()

    assert all(served.get(ref).task.status is Status.COMPLETED for ref in served.refs)
    assert len(served.engine.calls) == 3


def test_a_lost_message_is_found_next_to_the_task_of_a_dead_worker(served: Served) -> None:
    """The message sent for the dead worker's task must not be taken for the other task's message."""
    deserted, forgotten = served.submit(), served.submit()
    lose_messages(served)
    claim(served, deserted)
    served.clock.pass_s(SWEEP_S)

    assert served.service.sweep() == 2
    assert served.work() == 2

    assert {served.get(ref).task.status for ref in (deserted, forgotten)} == {Status.COMPLETED}


def test_a_task_that_stays_open_is_woken_at_growing_intervals(served: Served) -> None:
    """Its age doubles each time: it is woken 2, 4, 8 and 16 minutes after acceptance."""
    ref = served.submit()
    created_ms = served.get(ref).task.created_ms
    woken_at: list[float] = []
    for _ in range(17):
        lose_messages(served)
        if served.service.sweep():
            woken_at.append((served.clock.now_ms - created_ms) / 60_000)
        served.clock.pass_s(60)

    assert woken_at == [2, 4, 8, 16]


def test_concurrent_sweeps_send_one_message(served: Served) -> None:
    """Only one sweep can move the due time, and it does so before it sends the message."""
    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    sends = served.queue.sends

    with ThreadPoolExecutor(4) as pool:
        woken = list(pool.map(lambda _: served.service.sweep(), range(4)))

    assert (sum(woken), served.queue.sends - sends) == (1, 1)


def test_a_sweep_that_cannot_send_does_not_count_the_task_as_woken(served: Served) -> None:
    """The task becomes due again later."""
    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    served.queue.down = True
    assert served.service.sweep() == 0
    served.queue.down = False

    served.clock.pass_s(SWEEP_S)
    assert served.service.sweep() == 1


def test_a_deleted_task_in_the_index_does_not_stop_the_sweep(served: Served) -> None:
    """The index may still contain a task that was just deleted."""

    class Haunted(SqliteStore):
        def due(self, now_ms: int) -> Iterator[Due]:
            yield Due(TaskRef("local", "gone"), now_ms)
            yield from super().due(now_ms)

    served.submit()
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)

    with closing(Haunted(Database(served.path))) as store:
        assert served.use(a_catalog({"only": an_engine()}), store).sweep() == 1


def test_a_task_that_crashes_every_worker_fails_and_is_not_swept_again(served: Served) -> None:
    """After three deliveries that each ended in a crash, the task is Failed with an error that says so."""
    served.engine = ScriptedEngine(ZeroDivisionError())
    served.use(a_catalog({"only": an_engine()}))
    ref = served.submit()
    for _ in range(30):
        served.service.sweep()
        while message := served.queue.receive(0):
            with suppress(ZeroDivisionError):
                served.service.process(message.ref, owner="w")
        served.clock.pass_s(60)

    assert served.get(ref).task.error == "The task was given up: workers took it 3 times without progress."
    assert len(served.engine.calls) == 3
    assert list(served.store.due(served.clock.now_ms + 10**9)) == []


@pytest.mark.parametrize("done", range(3))
def test_no_task_is_lost_when_all_messages_are_lost(served: Served, done: int) -> None:
    """All remaining messages are lost after `done` tasks were processed."""
    for _ in range(3):
        served.submit()
    for _ in range(done):
        message = served.queue.receive(0)
        assert message
        served.service.process(message.ref, owner="w")
    lose_messages(served)
    served.clock.pass_s(SWEEP_S)
    served.service.sweep()
    served.work()

    assert all(served.get(ref).task.status is Status.COMPLETED for ref in served.refs)
    assert len(served.engine.calls) == 3
