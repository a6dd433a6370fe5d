"""The balancer chooses the engine after a call was made: only then is it known whether it gets the small variant."""

from __future__ import annotations

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.engines.call import EngineCall, SmallVariant
from llm_server.orchestration.domain.engines.catalog import EnginePrice
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable
from support.scripted_engine import Balanced, ScriptedEngine, an_engine, call_terms

CALL = EngineCall(
    system="You are a long and careful prompt.",
    messages=user("p"),
    max_output_tokens=1000,
    small=SmallVariant(system="Short.", max_output_tokens=100),
)
FREE = EnginePrice(input=0, output=0)


def test_each_engine_gets_its_own_variant(balanced: Balanced) -> None:
    """The failover goes from a small engine to a large one."""
    small, large = ScriptedEngine(EngineUnavailable("Busy.")), ScriptedEngine("Hello.")
    balancer = balanced(small=(an_engine(small=True, price=FREE), small), large=(an_engine(), large))

    balancer.call(CALL, call_terms())

    assert [(call.system, call.max_output_tokens) for call in small.calls] == [("Short.", 100)]
    assert [(call.system, call.max_output_tokens) for call in large.calls] == [(CALL.system, 1000)]
    assert [call.small for call in small.calls + large.calls] == [None, None]


def test_a_call_without_a_variant_is_the_same_for_all(balanced: Balanced) -> None:
    engine = ScriptedEngine("Hello.")
    plain = EngineCall(system="s", messages=user("p"), max_output_tokens=9)

    balanced(small=(an_engine(small=True), engine)).call(plain, call_terms())

    assert engine.calls == [plain]


def test_the_worst_case_is_that_of_the_variant(balanced: Balanced) -> None:
    """1 micro-USD for each byte of the texts and 64 tokens of the API, and 2 for each of 100 tokens out."""
    engine = ScriptedEngine(EngineUnavailable("Late.", kind="timeout", may_be_billed=True))

    reply = balanced(small=(an_engine(small=True), engine)).call(CALL, call_terms(budget=Budget(10**6)))

    assert [attempt.withheld_microusd for attempt in reply.attempts] == [len("Short.p") + 64 + 200]


def test_the_answer_gate_escalates_with_the_full_text(balanced: Balanced) -> None:
    small, strong = ScriptedEngine("bad"), ScriptedEngine("good")
    balancer = balanced(small=(an_engine(small=True, tier="fast"), small), strong=(an_engine(tier="strong"), strong))

    balancer.call(CALL, call_terms(fault=lambda completion: "bad" if completion.text == "bad" else None))

    assert [call.system for call in small.calls + strong.calls] == ["Short.", CALL.system]
