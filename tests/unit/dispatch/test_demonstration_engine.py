"""The demonstration engine answers only where no real engine is configured, and its calls say what they are."""

from __future__ import annotations

import pytest

from llm_server.engines.discovery import EMBEDDED
from llm_server.orchestration.domain.engines import demonstration
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable
from support.scripted_engine import Balanced, Clock, ScriptedEngine, WatchedStore, a_fleet, an_engine, call_terms

DEMONSTRATION = EngineSpec(kind="demonstration", source="local", model="tiny-model", max_concurrency=1)
CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)


def test_it_is_not_a_candidate_beside_a_real_engine(balanced: Balanced) -> None:
    """Not even when the real engine fails, or is the only one of the other tier."""
    shown, real = ScriptedEngine(), ScriptedEngine(EngineUnavailable("Busy."))
    balancer = balanced(shown=(DEMONSTRATION, shown), real=(an_engine(tier="strong"), real))

    reply = balancer.call(CALL, call_terms())

    assert balancer.candidates("fast", ANY_ENGINE) == []  # the real engine rests
    assert [attempt.engine for attempt in reply.attempts] == ["real"]
    assert not shown.calls


def test_the_embedded_engine_is_not_a_candidate_beside_it(watched: WatchedStore, clock: Clock) -> None:
    alone = a_fleet(watched, clock, embedded=EMBEDDED, shown=DEMONSTRATION)
    beside = a_fleet(watched, clock, embedded=EMBEDDED, shown=DEMONSTRATION, real=an_engine())

    assert list(alone.serving()) == alone.free(ANY_ENGINE) == ["shown"]
    assert list(beside.serving()) == ["real"]


@pytest.mark.parametrize(
    ("purpose", "why"),
    [
        ("answer", "fast tier, cheapest"),
        ("step s1", "fast tier, cheapest"),
        ("plan", "the analysis made the plan, the model was not asked"),
        ("synthesis", "the results of the steps were joined, the model was not asked"),
    ],
)
def test_its_calls_are_marked_and_say_when_the_model_was_not_asked(balanced: Balanced, purpose: str, why: str) -> None:
    reply = balanced(shown=(DEMONSTRATION, ScriptedEngine())).call(CALL, call_terms(purpose=purpose))

    assert [(attempt.demonstration, attempt.why) for attempt in reply.attempts] == [(True, why)]


def test_only_demonstrations_have_a_note() -> None:
    """It says what the engine is, and how to get a better one."""
    notes = (DEMONSTRATION.note, EMBEDDED.note, an_engine().note)

    assert notes == (demonstration.OF_MODEL, demonstration.OF_EMBEDDED, None)
    assert "135 million parameters" in demonstration.OF_MODEL
    assert "often wrong" in demonstration.OF_MODEL
    assert "make run MODEL=qwen2.5-1.5b" in demonstration.OF_MODEL
