"""Failover is limited to three calls for each step, and to a fifth of a process's calls."""

from __future__ import annotations

from llm_server.orchestration.dispatch.retry_budget import RetryBudget
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable
from support.scripted_engine import Balanced, Clock, ScriptedEngine, a_local_engine, an_engine, call_terms

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)


def test_a_step_makes_at_most_three_calls(balanced: Balanced) -> None:
    """The fourth engine is left for a later delivery."""
    broken = ScriptedEngine(EngineUnavailable("Broken."))
    balancer = balanced(**{name: (an_engine(), broken) for name in "abcd"})

    reply = balancer.call(CALL, call_terms())

    assert [a.engine for a in reply.attempts] == ["a", "b", "c"]
    assert reply.can_be_retried
    assert [a.engine for a in balancer.call(CALL, call_terms()).attempts] == ["d"]


def test_a_fifth_of_a_minutes_calls_may_be_retries_and_always_ten(clock: Clock) -> None:
    budget = RetryBudget(clock)
    for _ in range(10):
        assert budget.has_room()
        budget.count(retry=True)
    assert not budget.has_room()

    for _ in range(45):
        budget.count(retry=False)
    assert budget.has_room()
    budget.count(retry=True)
    assert not budget.has_room()
    clock.pass_s(60)
    assert budget.has_room()


def test_without_budget_the_next_engine_is_not_asked(balanced: Balanced) -> None:
    """An engine that never rests (Retry-After: 0) uses up the burst of ten retries."""
    away = ScriptedEngine(EngineUnavailable("Later.", retry_after_s=0))
    second = ScriptedEngine()
    balancer = balanced(first=(a_local_engine(), away), second=(an_engine(), second))

    replies = [balancer.call(CALL, call_terms()) for _ in range(12)]

    assert [len(reply.attempts) for reply in replies] == [2] * 10 + [1] * 2
    assert len(second.calls) == 10
    assert replies[-1].can_be_retried
