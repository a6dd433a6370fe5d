"""A limited number of workers compute at a time; those that wait for an engine are not among them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from random import Random

import pytest

from llm_server.embedded.slots import Slots
from llm_server.orchestration.domain.turns import Line
from support.concurrency import at_once
from support.scripted_engine import WAIT_S


class Crowd:
    """Counts the threads inside a block; `most` were there at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


def free(slots: Slots) -> int:
    """Return how many slots can be taken now."""
    return slots._free


def holds(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds."""
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def test_as_many_threads_hold_a_slot_as_there_are_slots() -> None:
    slots, crowd = Slots(3), Crowd()
    together = threading.Barrier(3, timeout=WAIT_S)

    def work(_: int) -> None:
        with slots.slot(), crowd:
            together.wait()

    at_once(work, range(12))

    assert crowd.most == 3
    assert free(slots) == 3


def test_a_thread_that_waits_holds_no_slot() -> None:
    """All of them wait at the same time, though there is one slot."""
    slots, computing = Slots(1), Crowd()
    together = threading.Barrier(16, timeout=WAIT_S)

    def work(_: int) -> None:
        with slots.slot():
            with computing:
                pass
            with slots.waiting():
                together.wait()
            with computing:
                time.sleep(0.001)

    at_once(work, range(16))

    assert computing.most == 1
    assert free(slots) == 1


def test_threads_that_return_go_before_new_ones_each_in_their_order() -> None:
    """The slot is taken while four threads return and four begin, turn by turn."""
    slots, order = Slots(1), list[str]()
    waiting, leave = threading.Semaphore(0), [threading.Event() for _ in range(4)]

    def returning(n: int) -> None:
        with slots.slot():
            with slots.waiting():
                waiting.release()
                leave[n].wait(WAIT_S)
            order.append(f"returning {n}")

    def new(n: int) -> None:
        with slots.slot():
            order.append(f"new {n}")

    with ThreadPoolExecutor(8) as pool:
        done: list[Future[None]] = [pool.submit(returning, n) for n in range(4)]
        assert all(waiting.acquire(timeout=WAIT_S) for _ in range(4))
        with slots.slot():
            for n in range(4):
                done.append(pool.submit(new, n))
                assert holds(lambda n=n: len(slots._waiting) == 2 * n + 1)  # type: ignore[misc]
                leave[n].set()
                assert holds(lambda n=n: len(slots._waiting) == 2 * n + 2)  # type: ignore[misc]
        for future in done:
            future.result(WAIT_S)

    assert order == [*(f"returning {n}" for n in range(4)), *(f"new {n}" for n in range(4))]


def test_a_slot_goes_to_the_tenant_whose_turn_it_is() -> None:
    """Eight tasks of one tenant wait for a slot already; two of another one come later."""
    slots, order = Slots(1), list[str]()

    def work(tenant: str) -> None:
        with slots.slot(Line(tenant)):
            order.append(tenant)

    with ThreadPoolExecutor(10) as pool:
        with slots.slot(Line("a")):
            done = []
            for n, tenant in enumerate(["a"] * 8 + ["b"] * 2):
                done.append(pool.submit(work, tenant))
                assert holds(lambda n=n: len(slots._waiting) == n + 1)  # type: ignore[misc]
        for future in done:
            future.result(WAIT_S)

    assert "".join(order) == "abab" + "a" * 6


def test_a_new_task_does_not_wait_for_all_that_return_of_another_tenant() -> None:
    """When the calls of a tenant end together, another tenant's task does not wait until all of them are done."""
    slots, order = Slots(1), list[str]()
    waiting, leave = threading.Semaphore(0), threading.Event()

    def returning() -> None:
        with slots.slot(Line("a")):
            with slots.waiting():
                waiting.release()
                leave.wait(WAIT_S)
            order.append("a")

    def new() -> None:
        with slots.slot(Line("b")):
            order.append("b")

    with ThreadPoolExecutor(9) as pool:
        done: list[Future[None]] = [pool.submit(returning) for _ in range(8)]
        assert all(waiting.acquire(timeout=WAIT_S) for _ in range(8))
        with slots.slot(Line("c")):
            leave.set()
            assert holds(lambda: len(slots._waiting) == 8)
            done.append(pool.submit(new))
            assert holds(lambda: len(slots._waiting) == 9)
        for future in done:
            future.result(WAIT_S)

    assert "".join(order) == "ab" + "a" * 7


def test_it_is_told_when_a_thread_begins_to_wait() -> None:
    """The slot is free by then, so that another worker can be started for it."""
    slots, told = Slots(1), list[bool]()
    slots.on_free = lambda: told.append(slots.any_free)

    with slots.slot():
        assert told == []
        with slots.waiting():
            assert told == [True]
        assert not slots.any_free
    assert told == [True]


def test_a_thread_without_a_slot_neither_waits_for_one_nor_gives_one_back() -> None:
    """The steps of a plan run on threads of their own, while other workers hold all slots."""
    slots, told = Slots(1), list[bool]()
    slots.on_free = lambda: told.append(True)

    def step() -> str:
        with slots.waiting():
            return f"{free(slots)} free"

    with slots.slot(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(step).result(WAIT_S) == "0 free"
        assert free(slots) == 0
    assert (free(slots), told) == (1, [])


def test_waiting_inside_waiting_gives_back_one_slot() -> None:
    """A worker that waits for the steps of its plan makes no call of its own, but nothing depends on that."""
    slots = Slots(2)

    with slots.slot(), slots.waiting(), slots.waiting():
        assert free(slots) == 2
    assert free(slots) == 2


@pytest.mark.parametrize("waits", [True, False])
def test_an_exception_leaves_the_counts_right(waits: bool) -> None:
    slots = Slots(2)

    def fail() -> None:
        with slots.slot(), slots.waiting() if waits else nullcontext():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert free(slots) == 2


def test_an_exception_of_the_callback_leaves_the_counts_right() -> None:
    slots = Slots(2)

    def fail() -> None:
        raise ZeroDivisionError

    slots.on_free = fail
    with pytest.raises(ZeroDivisionError), slots.slot(), slots.waiting():
        pass
    assert free(slots) == 2


def test_no_slot_is_lost_in_a_race() -> None:
    """32 threads take, wait and return a hundred times each, some of them with exceptions."""
    slots, computing = Slots(3), Crowd()

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(100):
            try:
                with slots.slot():
                    with computing:
                        time.sleep(0)
                    with slots.waiting():
                        time.sleep(random.random() / 5_000)
                        if random.random() < 0.2:
                            raise ZeroDivisionError
                    with computing:
                        time.sleep(0)
            except ZeroDivisionError:
                pass

    at_once(work, range(32))

    assert computing.most == 3
    assert free(slots) == 3
    assert not slots._waiting
