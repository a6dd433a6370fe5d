"""When an engine's rest has ended, a single worker probes it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.state import EngineState
from llm_server.orchestration.domain.errors import EngineUnavailable, OutOfTime, PromptRefused, TaskCancelled
from support.scripted_engine import (
    WAIT_S,
    Answer,
    Balanced,
    Clock,
    ScriptedEngine,
    WatchedStore,
    a_local_engine,
    an_engine,
    call_terms,
)

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
BUSY = EngineUnavailable("The engine is busy.")


def test_one_worker_of_the_deployment_probes(balanced: Balanced, watched: WatchedStore, clock: Clock) -> None:
    """Of eight parallel calls of two processes, one reaches the engine. Then the engine is healthy."""
    begun, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        assert leave.wait(WAIT_S)
        return "Back."

    engine = ScriptedEngine(BUSY, slow, "Well.")
    workers = [balanced(only=(an_engine(), engine)) for _ in range(2)]
    workers[0].call(CALL, call_terms())
    clock.pass_s(5)

    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(workers[1].call, CALL, call_terms())
        assert begun.wait(WAIT_S)
        others = [workers[n % 2].call(CALL, call_terms()) for n in range(7)]
        assert workers[0].fleet.status(watched.engines()) == {"only": "cooling"}
        leave.set()

    assert (len(engine.calls), probe.result().attempts[0].why) == (2, "fast tier, cheapest, probe")
    assert all(reply.attempts == () and reply.can_be_retried for reply in others)
    assert watched.engines().states == {"only": EngineState(recovered_ms=clock.now_ms)}
    clock.pass_s(5)
    assert workers[0].call(CALL, call_terms()).completion is not None


def test_a_probe_whose_worker_died_ends_with_its_claim(balanced: Balanced, watched: WatchedStore, clock: Clock) -> None:
    engine = ScriptedEngine("Back.")
    claim = EngineState(failures=1, rest_until_ms=clock.now_ms, probe_until_ms=clock.now_ms + 30_000)
    watched.save_engine_state("only", claim)
    balancer = balanced(only=(an_engine(), engine))

    clock.pass_s(29.999)
    assert balancer.call(CALL, call_terms()).attempts == ()
    clock.pass_s(0.001)
    assert balancer.call(CALL, call_terms()).completion is not None


def test_a_probe_that_fails_rests_the_engine_for_longer(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    balancer = balanced(only=(an_engine(), ScriptedEngine(BUSY)))
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    balancer.call(CALL, call_terms())

    state = watched.engines().states["only"]
    assert (state.failures, state.rest_until_ms, state.probe_until_ms) == (2, clock.now_ms + 10_000, 0)


@pytest.mark.parametrize(
    ("end", "failures"), [(PromptRefused("No."), 0), (TaskCancelled(), 1), (ZeroDivisionError(), 1)]
)
def test_a_probe_that_ends_otherwise_keeps_no_claim(
    balanced: Balanced, watched: WatchedStore, clock: Clock, end: Exception, failures: int
) -> None:
    """A refusal shows that the engine works; after any other result, the next task may probe it."""
    balancer = balanced(only=(an_engine(), ScriptedEngine(BUSY, end)))
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    try:
        balancer.call(CALL, call_terms())
    except ZeroDivisionError:
        assert failures

    state = watched.engines().states["only"]
    assert (state.failures, state.probe_until_ms) == (failures, 0)
    assert balancer.candidates("fast", ANY_ENGINE) == ["only"]


def test_a_probe_that_the_workers_time_cut_short_keeps_no_claim(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """It does not show whether the engine works, so the next task probes it."""

    def times_out(call: EngineCall) -> Answer:
        clock.pass_s(engine.timeouts_s[-1])
        return EngineUnavailable("The engine did not answer in time.", kind="timeout")

    engine = ScriptedEngine(BUSY, times_out, "Back.")
    balancer = balanced(only=(an_engine(timeout_s=30), engine))
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    cut = balancer.call(CALL, call_terms(until_ms=clock.now_ms + 2_000))

    assert isinstance(cut.failure, OutOfTime)
    state = watched.engines().states["only"]
    assert (state.failures, state.probe_until_ms) == (1, 0)
    assert balancer.call(CALL, call_terms()).completion is not None


def test_without_the_store_a_process_still_keeps_to_one_probe(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    inside: list[bool] = []

    def asks_again(call: EngineCall) -> Answer:
        inside.append(balancer.call(CALL, call_terms()).attempts == ())
        return "Back."

    balancer = balanced(only=(an_engine(), ScriptedEngine(BUSY, asks_again)))
    watched.down = True
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    assert balancer.call(CALL, call_terms()).completion is not None
    assert inside == [True]


def test_an_attempt_says_why_its_engine_was_chosen(balanced: Balanced) -> None:
    balancer = balanced(
        weak=(a_local_engine(tier="fast"), ScriptedEngine(BUSY)), strong=(an_engine(tier="strong"), ScriptedEngine())
    )

    asked = [balancer.call(CALL, call_terms(engine="strong")), balancer.call(CALL, call_terms())]
    asked.append(balancer.call(CALL, call_terms()))

    assert [(a.engine, a.tier, a.why) for reply in asked for a in reply.attempts] == [
        ("strong", "strong", "asked for by name"),
        ("weak", "fast", "fast tier, cheapest"),
        ("strong", "strong", "failover from weak"),
        ("strong", "strong", "no engine of the fast tier, cheapest"),
    ]


def test_an_attempt_names_the_engine_whose_failure_it_follows(balanced: Balanced, clock: Clock) -> None:
    """The attempt has fields for that engine and for being a probe, and a sentence with both."""
    balancer = balanced(
        weak=(a_local_engine(tier="fast"), ScriptedEngine(BUSY)),
        strong=(an_engine(tier="strong"), ScriptedEngine(BUSY, "Back.")),
    )
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    first, second = balancer.call(CALL, call_terms()).attempts

    assert (first.failover_from, first.probe, first.why) == (None, True, "fast tier, cheapest, probe")
    assert (second.failover_from, second.probe, second.why) == ("weak", True, "failover from weak, probe")


def test_an_escalation_follows_no_failure(balanced: Balanced) -> None:
    """The first engine answered, so `failover_from` is null."""
    balancer = balanced(
        weak=(a_local_engine(tier="fast"), ScriptedEngine("bad")), strong=(an_engine(tier="strong"), ScriptedEngine())
    )

    attempts = balancer.call(CALL, call_terms(fault=lambda completion: "bad")).attempts

    assert [(a.engine, a.failover_from, a.probe) for a in attempts] == [("weak", None, False), ("strong", None, False)]
