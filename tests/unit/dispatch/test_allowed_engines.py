"""A call is made only to engines that its task may use: the choice leaves out others, the last check refuses them."""

from __future__ import annotations

import pytest

from llm_server.engines.discovery import EMBEDDED
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.calls import EngineCalls
from llm_server.orchestration.dispatch.fleet import Fleet
from llm_server.orchestration.dispatch.health import EngineStates
from llm_server.orchestration.domain.engines.allowed import AllowedEngines, checked_sources, common
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EnginePrice, Sources
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, InvalidInput, LimitReached
from support.scripted_engine import (
    Balanced,
    Clock,
    ScriptedEngine,
    WatchedStore,
    a_catalog,
    a_local_engine,
    an_engine,
    call_terms,
    price,
)

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
BUSY = EngineUnavailable("The engine is busy.")
LOCAL: Sources = ("local",)
API: Sources = ("api",)


# The limit


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ((), None),
        ((None, None), None),
        ((LOCAL, None), LOCAL),
        ((None, API), API),
        ((("local", "api"), API), API),
        ((("local", "api"), None), ("local", "api")),
        ((LOCAL, API), ()),
        (((), None), ()),
    ],
)
def test_a_further_limit_never_allows_more(limits: tuple[Sources | None, ...], left: Sources | None) -> None:
    assert common(*limits) == left


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "The list limits.sources is empty; known are local, api. Leave it out to allow every source."),
        (["Local"], "Unknown source 'Local' in limits.sources; known are local, api."),
        (["api", "hosted"], "Unknown source 'hosted' in limits.sources; known are local, api."),
        (["api", "api"], "The list limits.sources has a source twice; known are local, api, each at most once."),
    ],
)
def test_a_wrong_limit_is_refused_and_the_words_are_named(words: list[str], why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_sources(words)

    assert (str(refused.value), refused.value.within, refused.value.field) == (why, "limits", "sources")


def test_the_order_of_the_words_does_not_count() -> None:
    assert checked_sources(["api", "local"]) == checked_sources(["local", "api"]) == ("local", "api")
    assert checked_sources(None) is None


# The last check before a call


def calls_of(watched: WatchedStore, clock: Clock, local: ScriptedEngine, hosted: ScriptedEngine) -> EngineCalls:
    catalog = a_catalog({"laptop": a_local_engine(), "hosted": an_engine()})
    states = EngineStates(watched, clock)
    fleet = Fleet(configured=catalog.engines, has_credentials=lambda _: True, states=states)
    engines = {"laptop": local, "hosted": hosted}
    return EngineCalls(catalog=catalog, engines=engines, fleet=fleet, states=states, price=price, clock=clock)


@pytest.mark.parametrize("allowed", [AllowedEngines(sources=LOCAL), AllowedEngines(engine="laptop")])
def test_an_engine_that_is_not_allowed_is_refused_just_before_the_call(
    allowed: AllowedEngines, watched: WatchedStore, clock: Clock
) -> None:
    """Even if a fault in the choice of engines should ask for it."""
    hosted = ScriptedEngine()
    budget = Budget(1_000_000)

    result = calls_of(watched, clock, ScriptedEngine(), hosted).ask(
        "hosted", CALL, call_terms(sources=allowed.sources, engine=allowed.engine, budget=budget), after=()
    )

    assert hosted.calls == []
    assert (str(result.failure), result.attempt) == ("Engine hosted is not one that the task may use.", None)
    assert budget.reserve(CALL, lambda _usage: 1_000_000)[1].microusd == 1_000_000, "nothing stays reserved"


def test_an_allowed_engine_is_asked(watched: WatchedStore, clock: Clock) -> None:
    local = ScriptedEngine()

    result = calls_of(watched, clock, local, ScriptedEngine()).ask("laptop", CALL, call_terms(sources=LOCAL), after=())

    assert (result.completion is not None, len(local.calls)) == (True, 1)


# The choice


def test_candidates_are_allowed_engines_only(balanced: Balanced) -> None:
    balancer = balanced(
        laptop=(a_local_engine(), ScriptedEngine()),
        hosted=(an_engine(tier="fast"), ScriptedEngine()),
        strong=(an_engine(tier="strong"), ScriptedEngine()),
    )

    assert balancer.candidates("strong", AllowedEngines(sources=LOCAL)) == ["laptop"]
    assert balancer.candidates("fast", AllowedEngines(sources=API)) == ["hosted", "strong"]
    assert balancer.candidates("fast", AllowedEngines(sources=("local", "api"))) == ["laptop", "hosted", "strong"]
    assert balancer.candidates("fast", AllowedEngines(engine="hosted", sources=LOCAL)) == []
    assert balancer.candidates("fast", AllowedEngines(sources=())) == []


def test_a_failure_leads_to_the_next_allowed_engine(balanced: Balanced) -> None:
    second, hosted = ScriptedEngine("Here."), ScriptedEngine()
    balancer = balanced(
        first=(a_local_engine(), ScriptedEngine(BUSY)),
        hosted=(an_engine(tier="fast"), hosted),
        second=(a_local_engine(tier="strong"), second),
    )

    reply = balancer.call(CALL, call_terms(sources=LOCAL))

    assert [attempt.engine for attempt in reply.attempts] == ["first", "second"]
    assert hosted.calls == []


def test_a_resting_local_engine_is_probed_and_no_hosted_one_is_asked(balanced: Balanced, clock: Clock) -> None:
    hosted = ScriptedEngine()
    balancer = balanced(laptop=(a_local_engine(), ScriptedEngine(BUSY)), hosted=(an_engine(), hosted))
    balancer.call(CALL, call_terms(sources=LOCAL))
    resting = balancer.call(CALL, call_terms(sources=LOCAL))
    clock.pass_s(6)
    probed = balancer.call(CALL, call_terms(sources=LOCAL))

    assert (str(resting.failure), resting.attempts, resting.outage) == (
        "No engine with the source local can take work now.",
        (),
        True,
    )
    assert [(attempt.engine, attempt.probe) for attempt in probed.attempts] == [("laptop", True)]
    assert hosted.calls == []


def test_a_task_that_may_not_use_a_resting_engine_does_not_wait_for_it(balanced: Balanced) -> None:
    """The dear engine costs more than the task's money. The local one, which rests, would be free of charge."""
    dear = an_engine(price=EnginePrice(input=1_000, output=1_000))
    balancer = balanced(laptop=(a_local_engine(), ScriptedEngine(BUSY)), dear=(dear, ScriptedEngine()))
    balancer.call(CALL, call_terms(sources=LOCAL))

    without = balancer.call(CALL, call_terms(budget=Budget(10)))
    limited = balancer.call(CALL, call_terms(budget=Budget(10), sources=API))

    assert isinstance(without.failure, EngineUnavailable), "it waits for the laptop"
    assert isinstance(limited.failure, LimitReached)


def test_the_embedded_engine_is_local(balanced: Balanced) -> None:
    """It runs in this process, so that a task which is limited to local engines may be a demonstration."""
    embedded = ScriptedEngine()

    reply = balanced(embedded=(EMBEDDED, embedded)).call(CALL, call_terms(sources=LOCAL))

    assert [(attempt.source, attempt.demonstration) for attempt in reply.attempts] == [("local", True)]
