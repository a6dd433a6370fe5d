"""The answer gate at work: a faulty answer of a cheap engine leads to one call of a strong engine."""

from __future__ import annotations

import pytest

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from support.scripted_engine import Answer, Balanced, ScriptedEngine, an_engine, call_terms

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
CHEAP: EngineSpec = an_engine(tier="fast")
STRONG: EngineSpec = an_engine(tier="strong")


def says_bad(completion: Completion) -> str | None:
    return "bad" if "bad" in completion.text else None


GATED = call_terms(fault=says_bad)


def test_a_faulty_cheap_answer_is_asked_for_again_of_a_strong_engine(balanced: Balanced) -> None:
    """The first attempt names the fault, the second one the reason for asking; both are paid for."""
    balancer = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, ScriptedEngine("good")))

    reply = balancer.call(CALL, GATED)

    assert reply.completion is not None
    assert reply.completion.text == "good"
    first, second = reply.attempts
    assert (first.engine, first.fault, first.answered, first.cost_microusd) == ("cheap", "bad", True, 50)
    assert (second.engine, second.fault, second.tier) == ("strong", None, "strong")
    assert second.why == "escalated from cheap"


def test_a_sound_answer_and_a_strong_engines_answer_stand(balanced: Balanced) -> None:
    """A strong engine's answer is not escalated, because no tier is above it. Its fault is noted for the caller."""
    strong = ScriptedEngine("bad")
    balancer = balanced(cheap=(CHEAP, ScriptedEngine("good")), strong=(STRONG, strong), other=(STRONG, strong))

    assert [a.engine for a in balancer.call(CALL, GATED).attempts] == ["cheap"]
    reply = balancer.call(CALL, call_terms(fault=says_bad, tier="strong"))
    assert [(a.tier, a.fault) for a in reply.attempts] == [("strong", "bad")]


def test_an_answer_is_escalated_once(balanced: Balanced) -> None:
    """The second answer is final, although two more strong engines are configured."""
    strong = {f"strong{n}": (STRONG, ScriptedEngine("bad again")) for n in range(3)}
    reply = balanced(cheap=(CHEAP, ScriptedEngine("bad")), **strong).call(CALL, GATED)

    assert reply.completion is not None
    assert reply.completion.text == "bad again"
    assert [a.fault for a in reply.attempts] == ["bad", "bad"]


def test_without_a_gate_nothing_is_escalated(balanced: Balanced) -> None:
    """The setting `answer_gate` is off."""
    reply = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, ScriptedEngine())).call(CALL, call_terms())

    assert [(a.engine, a.fault) for a in reply.attempts] == [("cheap", None)]


def test_where_nothing_escalates_a_fault_is_only_noted(balanced: Balanced) -> None:
    """`strong_share` is 0: the strong engine's price is not paid, but the caller can learn of the fault."""
    strong = ScriptedEngine("good")
    balancer = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, strong))

    reply = balancer.call(CALL, call_terms(fault=says_bad, escalates=False))

    assert [(a.engine, a.fault) for a in reply.attempts] == [("cheap", "bad")]
    assert strong.calls == []


@pytest.mark.parametrize("failure", [EngineUnavailable("Busy."), PromptRefused("Too long."), "  "])
def test_a_faulty_answer_is_better_than_none(balanced: Balanced, failure: Answer) -> None:
    """If the strong engine fails, refuses or answers without text, the first answer is used."""
    reply = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, ScriptedEngine(failure))).call(CALL, GATED)

    assert reply.completion is not None
    assert reply.completion.text == "bad"
    assert [(a.engine, a.fault, a.answered) for a in reply.attempts] == [
        ("cheap", "bad", True),
        ("strong", None, False),
    ]


def test_where_no_strong_engine_is_the_fault_is_only_said(balanced: Balanced) -> None:
    """Another cheap engine is not asked instead."""
    other = ScriptedEngine("good")
    reply = balanced(cheap=(CHEAP, ScriptedEngine("bad")), other=(CHEAP, other)).call(CALL, GATED)

    assert [(a.engine, a.fault) for a in reply.attempts] == [("cheap", "bad")]
    assert other.calls == []


def test_an_engine_asked_for_by_name_is_not_gone_past(balanced: Balanced) -> None:
    """Only the named engine is asked."""
    strong = ScriptedEngine("good")
    balancer = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, strong))

    assert len(balancer.call(CALL, call_terms(fault=says_bad, engine="cheap")).attempts) == 1
    assert strong.calls == []


def test_an_empty_answer_goes_to_the_strong_engine_next(balanced: Balanced) -> None:
    """The strong engine goes before other cheap ones, and the receipt names the fault as "empty"."""
    engines = {"cheap": ScriptedEngine(" "), "cheap2": ScriptedEngine("b"), "strong": ScriptedEngine("c")}
    given = {name: (STRONG if name == "strong" else CHEAP, engine) for name, engine in engines.items()}

    first, second = balanced(**given).call(CALL, GATED).attempts

    assert (first.engine, first.fault, first.answered, first.cost_microusd) == ("cheap", "empty", False, 50)
    assert (second.engine, second.why) == ("strong", "escalated from cheap")


def test_where_nothing_escalates_an_empty_answer_stays_with_the_cheap_engines(balanced: Balanced) -> None:
    """If they have no text either, the call fails; the strong engine's price is not paid."""
    strong = ScriptedEngine("c")
    engines = {"cheap": (CHEAP, ScriptedEngine(" ")), "strong": (STRONG, strong)}
    terms = call_terms(escalates=False)

    reply = balanced(**engines).call(CALL, terms)
    other = balanced(**engines, cheap2=(CHEAP, ScriptedEngine("b"))).call(CALL, terms)

    assert str(reply.failure) == "The engine's answer is empty."
    assert [(a.engine, a.fault) for a in other.attempts] == [("cheap", None), ("cheap2", None)]
    assert strong.calls == []
    assert balanced(**engines).call(CALL, call_terms(escalates=False, tier="strong")).completion is not None


def test_an_escalation_keeps_to_the_tasks_money(balanced: Balanced) -> None:
    """The strong call does not fit into what is left of the limit, so the cheap answer is used."""
    strong = ScriptedEngine("good")
    balancer = balanced(cheap=(CHEAP, ScriptedEngine("bad")), strong=(STRONG, strong))

    reply = balancer.call(CALL, call_terms(fault=says_bad, budget=Budget(140)))

    assert reply.completion is not None
    assert (reply.completion.text, strong.calls) == ("bad", [])


def test_a_step_has_three_calls_with_its_escalation(balanced: Balanced) -> None:
    """After two failed engines and the cheap answer, no fourth call is made."""
    engines = {
        "a": (CHEAP, ScriptedEngine(EngineUnavailable("Busy."))),
        "b": (CHEAP, ScriptedEngine(EngineUnavailable("Busy."))),
        "c": (CHEAP, ScriptedEngine("bad")),
        "strong": (STRONG, ScriptedEngine("good")),
    }

    assert [a.engine for a in balanced(**engines).call(CALL, GATED).attempts] == ["a", "b", "c"]


def test_escalations_take_nothing_from_the_retry_budget(balanced: Balanced) -> None:
    """After a hundred escalations in a minute, a failover is still allowed."""
    cheap = ScriptedEngine(*["bad"] * 100, EngineUnavailable("Busy."))
    balancer = balanced(cheap=(CHEAP, cheap), strong=(STRONG, ScriptedEngine("good")))

    assert {len(balancer.call(CALL, GATED).attempts) for _ in range(100)} == {2}
    assert [a.why for a in balancer.call(CALL, GATED).attempts] == ["fast tier, cheapest", "failover from cheap"]
