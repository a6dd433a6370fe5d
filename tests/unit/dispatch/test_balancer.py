"""Engines are tried in the right order, failures lead to another engine, and every call is on the receipt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_server.orchestration.dispatch.balancer import Reply
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.reservation import Reservation
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.state import EngineRecords
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from support.scripted_engine import (
    WAIT_S,
    Answer,
    Balanced,
    Clock,
    ScriptedEngine,
    WatchedStore,
    a_balancer,
    a_catalog,
    a_completion,
    a_local_engine,
    an_engine,
    call_terms,
)

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
BUSY = EngineUnavailable("The engine is busy.")


def answering(text: str = "Hello.") -> ScriptedEngine:
    return ScriptedEngine(text)


# The order of candidates


def test_the_wanted_tier_goes_before_the_price(balanced: Balanced) -> None:
    """An engine without a tier takes any call; one of the other tier comes last."""
    balancer = balanced(
        strong=(an_engine(tier="strong", price=EnginePrice(input=0, output=1)), answering()),
        fast=(an_engine(tier="fast", price=EnginePrice(input=5, output=9)), answering()),
        any=(an_engine(price=EnginePrice(input=9, output=9)), answering()),
    )

    assert balancer.candidates("fast", ANY_ENGINE) == ["fast", "any", "strong"]
    assert balancer.candidates("strong", ANY_ENGINE) == ["strong", "any", "fast"]


def test_the_cheapest_engine_goes_first_and_an_unpriced_one_last(balanced: Balanced) -> None:
    """An engine with an unknown price does not count as free."""
    balancer = balanced(
        unpriced=(an_engine(price=None), answering()),
        dear=(an_engine(price=EnginePrice(input=3, output=9)), answering()),
        cheap=(an_engine(price=EnginePrice(input=1, output=1)), answering()),
    )

    assert balancer.candidates("fast", ANY_ENGINE) == ["cheap", "dear", "unpriced"]


def test_local_goes_before_api_at_the_same_price(balanced: Balanced) -> None:
    """Data leaves the machine only if it must."""
    balancer = balanced(
        api=(an_engine(price=EnginePrice(input=0, output=0)), answering()),
        local=(a_local_engine(), answering()),
    )

    assert balancer.candidates("fast", ANY_ENGINE) == ["local", "api"]


def test_what_is_off_locked_or_without_a_key_is_no_candidate(balanced: Balanced) -> None:
    """`llm_status` shows the reason for each."""
    balancer = balanced(
        without_credentials="keyless",
        off=(an_engine(toggle=False), answering()),
        locked=(an_engine(locked=True), answering()),
        keyless=(an_engine(model="keyless"), answering()),
        well=(an_engine(), answering()),
    )

    assert balancer.candidates("fast", ANY_ENGINE) == ["well"]
    assert balancer.fleet.status(EngineRecords()) == {
        "off": "disabled",
        "locked": "locked",
        "keyless": "offline",
        "well": "online",
    }


def test_the_embedded_engine_never_stands_in_for_a_configured_one(balanced: Balanced) -> None:
    """Callers would take its answer for an LLM's. While the configured engine rests, the task waits."""
    real = ScriptedEngine(BUSY)
    embedded = answering("No LLM is configured.")
    spec = EngineSpec(kind="embedded", source="local", model="embedded")
    balancer = balanced(real=(an_engine(), real), embedded=(spec, embedded))

    first, second = balancer.call(CALL, call_terms()), balancer.call(CALL, call_terms())

    assert (first.completion, second.completion, embedded.calls) == (None, None, [])
    assert balancer.fleet.status(EngineRecords()) == {"real": "online"}
    assert balanced(embedded=(spec, embedded)).call(CALL, call_terms()).completion is not None


def test_an_engine_asked_for_by_name_is_tried_alone(balanced: Balanced) -> None:
    """No other engine is asked, and the embedded engine can be named too."""
    named, other = ScriptedEngine(BUSY), answering()
    embedded = (EngineSpec(kind="embedded", source="local", model="embedded"), answering("Me."))
    balancer = balanced(named=(an_engine(), named), other=(an_engine(), other), embedded=embedded)

    assert balancer.call(CALL, call_terms(engine="named")).completion is None
    assert other.calls == []
    reply = balancer.call(CALL, call_terms(engine="embedded"))
    assert reply.completion is not None
    assert reply.completion.text == "Me."


def test_an_engine_that_is_configured_no_more_is_tried_again_but_is_no_outage(balanced: Balanced) -> None:
    """Another process may still have the older configuration, so the task is retried, but not without end."""
    reply = balanced(a=(an_engine(), answering())).call(CALL, call_terms(engine="gone"))

    assert str(reply.failure) == "Engine gone is not configured any more."
    assert (reply.can_be_retried, reply.outage) == (True, False)


# Failover and rest


@pytest.mark.parametrize("kind", ["busy", "timeout", "unreachable", "credentials", "garbage"])
def test_the_next_candidate_answers_in_the_same_call(balanced: Balanced, kind: str) -> None:
    """This holds for every kind of failure. Both attempts are recorded; only the answer costs money."""
    first = ScriptedEngine(EngineUnavailable("Broken.", kind=kind))  # type: ignore[arg-type]
    balancer = balanced(
        first=(an_engine(price=EnginePrice(input=0, output=1)), first), second=(an_engine(), answering())
    )

    reply = balancer.call(CALL, call_terms(purpose="step a"))

    assert reply.completion is not None
    assert [(a.engine, a.error, a.cost_microusd) for a in reply.attempts] == [
        ("first", "Broken.", 0),
        ("second", None, 50),
    ]
    assert {a.purpose for a in reply.attempts} == {"step a"}


def test_a_resting_engine_is_not_asked(balanced: Balanced, clock: Clock) -> None:
    """When its rest has ended, a real task is its probe."""
    first = ScriptedEngine(BUSY, "Back.")
    balancer = balanced(first=(a_local_engine(), first), second=(an_engine(), answering()))
    balancer.call(CALL, call_terms())

    clock.pass_s(4.999)
    balancer.call(CALL, call_terms())
    assert len(first.calls) == 1
    clock.pass_s(0.001)

    reply = balancer.call(CALL, call_terms())
    assert reply.completion is not None
    assert reply.completion.text == "Back."


def test_the_rest_doubles_from_5_s_to_5_min(balanced: Balanced, watched: WatchedStore, clock: Clock) -> None:
    """An engine that keeps failing is asked less and less often; one answer ends that."""
    engine = ScriptedEngine(*[BUSY] * 9, "Back.", BUSY)
    balancer = balanced(only=(an_engine(), engine))
    rests = []
    for _ in range(9):
        balancer.call(CALL, call_terms())
        until_ms = watched.engines().states["only"].rest_until_ms
        rests.append((until_ms - clock.now_ms) / 1000)
        clock.now_ms = until_ms

    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert balancer.call(CALL, call_terms()).completion is not None
    balancer.call(CALL, call_terms())
    assert watched.engines().states["only"].rest_until_ms - clock.now_ms == 5_000


@pytest.mark.parametrize(("asked_s", "rest_s"), [(0, 0), (0.5, 0.5), (30, 30), (600, 600), (86_400, 600)])
def test_an_engine_rests_as_long_as_it_asked_for(
    balanced: Balanced, watched: WatchedStore, clock: Clock, asked_s: float, rest_s: float
) -> None:
    """The rest is its Retry-After, at most 10 minutes."""
    engine = ScriptedEngine(EngineUnavailable("Later.", retry_after_s=asked_s))

    balanced(only=(an_engine(), engine)).call(CALL, call_terms())

    assert watched.engines().states["only"].rest_until_ms - clock.now_ms == rest_s * 1000


def test_a_call_from_before_the_rest_neither_ends_nor_prolongs_it(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """Of three parallel calls, the first gets a Retry-After of 30 s; the later results do not change it."""
    together, refused = threading.Barrier(3, timeout=WAIT_S), threading.Event()

    def slow(call: EngineCall) -> Answer:
        together.wait()
        if call.prompt == "refused":
            return EngineUnavailable("Later.", retry_after_s=30)
        assert refused.wait(WAIT_S)
        return BUSY if call.prompt == "busy" else "Done."

    balancer = balanced(only=(an_engine(), ScriptedEngine(slow)))

    def call(prompt: str) -> Reply:
        reply = balancer.call(EngineCall(system="", messages=user(prompt), max_output_tokens=9), call_terms())
        if prompt == "refused":
            refused.set()
        return reply

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(call, ["refused", "busy", "done"]))

    state = watched.engines().states["only"]
    assert (state.rest_until_ms, state.failures) == (clock.now_ms + 30_000, 1)


def test_who_waits_for_a_place_sees_that_the_engine_rests(watched: WatchedStore, clock: Clock) -> None:
    """After a 429 to the call that held the only place, the calls that waited for the place do not ask."""
    begun, waiting = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        assert waiting.wait(WAIT_S)
        return EngineUnavailable("Later.", retry_after_s=30)

    engine = ScriptedEngine(slow)
    balancer = a_balancer(a_catalog({"only": an_engine(max_concurrency=1)}), {"only": engine}, watched, clock)
    second = Budget(10**9)

    def waits(call: EngineCall) -> tuple[EngineCall, Reservation]:
        waiting.set()  # the call after this one is for the place
        return call, Reservation()

    second.reserve = lambda call, price: waits(call)  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(balancer.call, CALL, call_terms())
        assert begun.wait(WAIT_S)
        behind = pool.submit(balancer.call, CALL, call_terms(budget=second))

    assert len(engine.calls) == 1
    assert first.result().attempts
    assert behind.result().attempts == ()
    assert behind.result().can_be_retried


def test_all_candidates_resting_is_a_matter_of_time(balanced: Balanced) -> None:
    """No attempt is made or recorded, and the task can be retried."""
    balancer = balanced(only=(an_engine(), ScriptedEngine(BUSY)))
    first, second = balancer.call(CALL, call_terms()), balancer.call(CALL, call_terms())

    assert (str(first.failure), len(first.attempts)) == ("The engine is busy.", 1)
    assert (str(second.failure), second.attempts) == ("No engine can take work now.", ())
    assert second.can_be_retried


def test_a_refused_prompt_is_not_offered_to_another_engine(balanced: Balanced, watched: WatchedStore) -> None:
    """Every engine would refuse it. The engine that refused it counts as healthy."""
    other = answering()
    balancer = balanced(a=(a_local_engine(), ScriptedEngine(PromptRefused("Too long."))), b=(an_engine(), other))

    reply = balancer.call(CALL, call_terms())

    assert (str(reply.failure), reply.can_be_retried, other.calls) == ("Too long.", False, [])
    assert [a.error for a in reply.attempts] == ["Too long."]
    assert (watched.writes, balancer.candidates("fast", ANY_ENGINE)) == (0, ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("busy", "cooling"),
        ("timeout", "cooling"),
        ("garbage", "cooling"),
        ("unreachable", "offline"),
        ("credentials", "offline"),
    ],
)
def test_the_status_says_why_an_engine_cannot_answer(
    balanced: Balanced, watched: WatchedStore, clock: Clock, kind: str, status: str
) -> None:
    """It is offline until it answers again, and cooling while it rests."""
    engine = ScriptedEngine(EngineUnavailable("Gone.", kind=kind), "Back.")  # type: ignore[arg-type]
    balancer = balanced(only=(an_engine(), engine))
    balancer.call(CALL, call_terms())

    assert balancer.fleet.status(watched.engines()) == {"only": status}
    clock.pass_s(5)
    assert balancer.fleet.status(watched.engines()) == {"only": "online" if status == "cooling" else "offline"}
    balancer.call(CALL, call_terms())
    assert balancer.fleet.status(watched.engines()) == {"only": "online"}


def test_an_empty_answer_goes_to_the_next_engine_and_stays_on_the_bill(balanced: Balanced) -> None:
    """The empty answer is paid for, and its engine does not rest."""
    balancer = balanced(a=(an_engine(), ScriptedEngine(" \n")), b=(an_engine(), ScriptedEngine("Here.")))

    reply = balancer.call(CALL, call_terms())

    assert reply.completion is not None
    assert [(a.engine, a.error, a.cost_microusd) for a in reply.attempts] == [
        ("a", "The engine's answer is empty.", 50),
        ("b", None, 50),
    ]
    assert balancer.candidates("fast", ANY_ENGINE) == ["a", "b"]


def test_an_empty_answer_is_not_bought_again(balanced: Balanced) -> None:
    """Without another engine, the task fails, and its error says why."""
    reply = balanced(only=(an_engine(), ScriptedEngine(""))).call(CALL, call_terms())

    assert (str(reply.failure), reply.can_be_retried) == ("The engine's answer is empty.", False)


def test_an_empty_answer_is_no_outage(balanced: Balanced) -> None:
    """One engine is unreachable, the other answered without text, so the try counts as a delivery."""
    away = ScriptedEngine(EngineUnavailable("Gone.", kind="unreachable"))
    reply = balanced(a=(a_local_engine(), ScriptedEngine("")), b=(an_engine(), away)).call(CALL, call_terms())

    assert (str(reply.failure), reply.can_be_retried, reply.outage) == ("Gone.", True, False)


def test_an_answer_its_limit_cut_is_marked(balanced: Balanced) -> None:
    balancer = balanced(only=(an_engine(), ScriptedEngine(a_completion("Cut o", truncated=True))))

    [attempt] = balancer.call(CALL, call_terms()).attempts

    assert attempt.truncated


def test_an_affordable_engine_that_rests_is_waited_for(balanced: Balanced, clock: Clock) -> None:
    """The task does not fail because the only free engine is too expensive."""
    dear = an_engine(price=EnginePrice(input=1_000, output=1_000))
    cheap = ScriptedEngine(EngineUnavailable("Too many.", retry_after_s=30), "Cheap.")
    balancer = balanced(cheap=(an_engine(), cheap), dear=(dear, ScriptedEngine("Dear.")))
    balancer.call(CALL, call_terms(engine="cheap"))

    waiting = balancer.call(CALL, call_terms(budget=Budget.of(10_000, 0)))
    clock.pass_s(30)
    answered = balancer.call(CALL, call_terms(budget=Budget.of(10_000, 0)))

    assert (waiting.can_be_retried, waiting.outage) == (True, True)
    assert answered.completion is not None
    assert answered.completion.text == "Cheap."
