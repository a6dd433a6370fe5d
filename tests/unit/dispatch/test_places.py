"""The calls to an engine wait for its places in a line, without using the processor."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_server.orchestration.dispatch.places import Places
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.errors import OutOfTime, TaskCancelled
from llm_server.orchestration.domain.turns import Line
from support.scripted_engine import WAIT_S, an_engine


def places(number: int = 1) -> Places:
    return Places({"only": an_engine(max_concurrency=number)})


def taken(of: Places, wait_s: float = WAIT_S, cancellation: Cancellation | None = None) -> bool:
    """Take a place and give it back."""
    with of.hold("only", wait_s, cancellation or Cancellation()):
        return True


def until_waiting(of: Places, number: int) -> None:
    end = time.monotonic() + WAIT_S
    while len(of._waiting["only"]) < number and time.monotonic() < end:
        time.sleep(0.001)


def test_calls_get_their_places_in_the_order_in_which_they_began_to_wait() -> None:
    of, order = places(), list[int]()

    def call(number: int) -> None:
        with of.hold("only", WAIT_S, Cancellation()):
            order.append(number)

    with ThreadPoolExecutor(20) as pool:
        with of.hold("only", WAIT_S, Cancellation()):
            calls = []
            for number in range(20):
                calls.append(pool.submit(call, number))
                until_waiting(of, number + 1)
        for each in calls:
            each.result(WAIT_S)

    assert order == list(range(20))


def test_a_call_of_another_tenant_gets_the_next_place() -> None:
    """Twenty calls of one tenant wait already. So the other tenant waits for one call, not for twenty."""
    of, order = places(), list[str]()

    def call(tenant: str) -> None:
        with of.hold("only", WAIT_S, Cancellation(), Line(tenant)):
            order.append(tenant)

    with ThreadPoolExecutor(21) as pool:
        with of.hold("only", WAIT_S, Cancellation(), Line("a")):
            calls = []
            for number, tenant in enumerate(["a"] * 20 + ["b"]):
                calls.append(pool.submit(call, tenant))
                until_waiting(of, number + 1)
        for each in calls:
            each.result(WAIT_S)

    assert order == ["b"] + ["a"] * 20


def test_a_call_that_leaves_its_line_leaves_the_turns_of_others_as_they_are() -> None:
    """A wait that ran out of time, and one that was cancelled; both counts of the tenant are right after that."""
    of, cancellation = places(), Cancellation()
    with ThreadPoolExecutor(1) as pool, of.hold("only", WAIT_S, Cancellation(), Line("a")):
        with pytest.raises(OutOfTime), of.hold("only", 0.01, Cancellation(), Line("b")):
            pass
        waiting = pool.submit(taken, of, WAIT_S, cancellation)
        until_waiting(of, 1)
        cancellation.cancel()
        with pytest.raises(TaskCancelled):
            waiting.result(WAIT_S)

    assert taken(of, 0.01)
    assert (of._waiting["only"].in_use, of._waiting["only"].tenants) == (0, 0)


def test_a_wait_that_was_in_vain_takes_no_place() -> None:
    """Neither the one that ran out of time nor the one that was cancelled."""
    of, cancellation = places(), Cancellation()
    with ThreadPoolExecutor(1) as pool, of.hold("only", WAIT_S, Cancellation()):
        with pytest.raises(OutOfTime):
            taken(of, 0.01)
        waiting = pool.submit(taken, of, WAIT_S, cancellation)
        until_waiting(of, 1)
        began = time.monotonic()
        cancellation.cancel()
        with pytest.raises(TaskCancelled):
            waiting.result(WAIT_S)
        assert time.monotonic() - began < 0.15, "a cancelled call does not wait for its next look"
        with pytest.raises(TaskCancelled):
            taken(of, WAIT_S, cancellation)

    assert taken(of, 0.01)


def test_a_cancelled_call_gives_back_the_place_that_it_has_just_got() -> None:
    """The place and the cancellation come in the same moment, in either order."""
    of = places()
    for _ in range(200):
        cancellation, together = Cancellation(), threading.Barrier(2, timeout=WAIT_S)

        def cancel(cancellation: Cancellation = cancellation, together: threading.Barrier = together) -> None:
            together.wait()
            cancellation.cancel()

        with ThreadPoolExecutor(2) as pool:
            with of.hold("only", WAIT_S, Cancellation()):
                waiting = pool.submit(taken, of, WAIT_S, cancellation)
                until_waiting(of, 1)
                pool.submit(cancel)
                together.wait()
            assert waiting.exception(WAIT_S) is None or isinstance(waiting.exception(WAIT_S), TaskCancelled)

    assert taken(of, 0.01)


def test_engines_have_places_of_their_own() -> None:
    of = Places({name: an_engine(max_concurrency=1) for name in ("one", "two")})

    with of.hold("one", 0.01, Cancellation()), of.hold("two", 0.01, Cancellation()):
        with pytest.raises(OutOfTime), of.hold("one", 0.01, Cancellation()):
            pass
        with pytest.raises(OutOfTime), of.hold("two", 0.01, Cancellation()):
            pass
