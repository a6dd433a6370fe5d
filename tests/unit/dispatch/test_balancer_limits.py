"""The limits of an engine call: rests, places, the worker's time and the task's money."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from llm_server import wiring
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.reservation import Price, Reservation
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import (
    ConfigurationError,
    EngineUnavailable,
    LimitReached,
    MoneySetAside,
    OutOfTime,
    PromptRefused,
    TaskCancelled,
)
from llm_server.orchestration.domain.receipt import Attempt
from support.builders import NOW_MS
from support.scripted_engine import (
    WAIT_S,
    Answer,
    Balanced,
    Clock,
    Script,
    ScriptedEngine,
    WatchedStore,
    a_catalog,
    a_completion,
    a_local_engine,
    a_usage,
    an_engine,
    call_terms,
)

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
BUSY = EngineUnavailable("The engine is busy.")


def answering(text: str = "Hello.") -> ScriptedEngine:
    return ScriptedEngine(text)


# Engines' states in the store


def test_states_are_read_every_5_s_at_most_and_never_written_while_all_is_well(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """Health adds no writes and few reads to the cost of a call."""
    balancer = balanced(a=(an_engine(), answering()), b=(an_engine(), answering()))
    for _ in range(20):
        balancer.call(CALL, call_terms())
    assert (watched.reads, watched.writes) == (1, 0)

    clock.pass_s(4.999)
    balancer.call(CALL, call_terms())
    assert watched.reads == 1
    clock.pass_s(0.001)
    balancer.call(CALL, call_terms())

    assert (watched.reads, watched.writes) == (2, 0)


def test_a_rest_is_shared_with_other_workers(balanced: Balanced) -> None:
    """One process's failure spares the others a failing call."""
    engine = ScriptedEngine(BUSY)
    one, other = balanced(only=(an_engine(), engine)), balanced(only=(an_engine(), engine))
    one.call(CALL, call_terms())

    assert other.call(CALL, call_terms()).attempts == ()


def test_a_store_that_is_away_does_no_harm(balanced: Balanced, watched: WatchedStore, clock: Clock) -> None:
    """Calls go on, and the last known states stay in use."""
    first = ScriptedEngine(BUSY)
    balancer = balanced(first=(a_local_engine(), first), second=(an_engine(), answering()))
    watched.down = True

    assert balancer.call(CALL, call_terms()).completion is not None
    assert balancer.call(CALL, call_terms()).completion is not None
    assert (len(first.calls), watched.writes) == (1, 0)


# Places, time and money


def test_an_engines_places_hold_across_threads(balanced: Balanced) -> None:
    """Calls meet in pairs at a barrier: two run at the same time, never three."""
    together, lock = threading.Barrier(2, timeout=WAIT_S), threading.Lock()
    running, most = 0, 0

    def counted(call: EngineCall) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1
        return "Hello."

    balancer = balanced(only=(an_engine(max_concurrency=2), ScriptedEngine(counted)))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: balancer.call(CALL, call_terms()), range(8)))

    assert all(reply.completion for reply in replies)
    assert most == 2


def test_waiting_for_a_place_ends_with_the_workers_time(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """Other tasks hold the engine's place. This is not a failure of the engine, and not an attempt."""
    begun, leave = threading.Event(), threading.Event()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        leave.wait(WAIT_S)
        return "Hello."

    balancer = balanced(only=(an_engine(max_concurrency=1), ScriptedEngine(slow)))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(balancer.call, CALL, call_terms())
        assert begun.wait(WAIT_S)
        reply = balancer.call(CALL, call_terms(until_ms=clock.now_ms + 1_000))
        leave.set()

    assert isinstance(reply.failure, OutOfTime)
    assert (reply.attempts, reply.can_be_retried, watched.writes) == ((), True, 0)
    assert balancer.call(CALL, call_terms()).completion is not None


def test_a_cancelled_task_waits_for_no_place(balanced: Balanced) -> None:
    """Its worker stops at once, although the call that holds the place takes long."""
    begun, leave, cancellation = threading.Event(), threading.Event(), Cancellation()

    def slow(call: EngineCall) -> Answer:
        begun.set()
        leave.wait(WAIT_S)
        return "Hello."

    balancer = balanced(only=(an_engine(max_concurrency=1), ScriptedEngine(slow)))
    with ThreadPoolExecutor(2) as pool:
        pool.submit(balancer.call, CALL, call_terms())
        assert begun.wait(WAIT_S)
        waiting = pool.submit(balancer.call, replace(CALL, cancellation=cancellation), call_terms())
        cancellation.cancel()
        reply = waiting.result(WAIT_S)
        leave.set()

    assert isinstance(reply.failure, TaskCancelled)
    assert reply.attempts == ()


def test_a_task_that_was_cancelled_meanwhile_is_not_failed_over(balanced: Balanced) -> None:
    """It was cancelled while the first engine failed slowly. The store refuses to announce the second call."""

    def announce(calls: tuple[Attempt, ...]) -> None:
        if len(calls) > 1:
            raise TaskCancelled

    second = answering()
    balancer = balanced(first=(a_local_engine(), ScriptedEngine(BUSY)), second=(an_engine(), second))
    reply = balancer.call(CALL, call_terms(announce=announce))

    assert isinstance(reply.failure, TaskCancelled)
    assert (len(reply.attempts), second.calls) == (1, [])


def test_a_clock_that_is_set_during_a_call_spoils_no_mean(balanced: Balanced, clock: Clock) -> None:
    """A single duration of two days would distort the average of a million calls."""

    def set_on(call: EngineCall) -> Answer:
        clock.pass_s(2 * 24 * 3600)
        return "Hello."

    reply = balanced(only=(an_engine(timeout_s=30), ScriptedEngine(set_on))).call(CALL, call_terms())

    assert [attempt.duration_ms for attempt in reply.attempts] == [30_000]


def test_a_place_is_given_back_whatever_happens_in_it(balanced: Balanced, clock: Clock) -> None:
    """An engine with one place still has it after every kind of failure."""
    engine = ScriptedEngine(PromptRefused("No."), ZeroDivisionError(), BUSY, "Hello.")
    balancer = balanced(only=(an_engine(max_concurrency=1), engine))
    balancer.call(CALL, call_terms())
    with pytest.raises(ZeroDivisionError):
        balancer.call(CALL, call_terms())
    balancer.call(CALL, call_terms())
    clock.pass_s(5)

    assert balancer.call(CALL, call_terms(until_ms=clock.now_ms + 1_000)).completion is not None


def test_a_call_has_the_engines_time_or_the_workers_whichever_is_less(balanced: Balanced, clock: Clock) -> None:
    """With less than half a second left, no call is made."""
    engine = answering()
    balancer = balanced(only=(an_engine(timeout_s=30), engine))

    balancer.call(CALL, call_terms())
    balancer.call(CALL, call_terms(until_ms=clock.now_ms + 8_000))
    reply = balancer.call(CALL, call_terms(until_ms=clock.now_ms + 499))

    assert engine.timeouts_s == [30, 8]
    assert isinstance(reply.failure, OutOfTime)


def test_an_engine_cut_short_by_the_workers_time_is_not_to_blame(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """A caller's short deadline must not rest an engine for other callers. The attempt is recorded."""

    def times_out(call: EngineCall) -> Answer:
        clock.pass_s(engine.timeouts_s[-1])
        return EngineUnavailable("The engine did not answer in time.", kind="timeout")

    engine, other = ScriptedEngine(times_out), answering()
    balancer = balanced(slow=(a_local_engine(timeout_s=30), engine), other=(an_engine(), other))

    cut = balancer.call(CALL, call_terms(until_ms=clock.now_ms + 2_000))

    assert isinstance(cut.failure, OutOfTime)
    assert [(a.error, a.duration_ms) for a in cut.attempts] == [("The engine did not answer in time.", 2_000)]
    assert (watched.writes, other.calls) == (0, [])
    assert balancer.call(CALL, call_terms(until_ms=clock.now_ms + 60_000)).completion is not None
    assert watched.engines().states["slow"].failures == 1


def test_a_refusal_near_the_end_of_the_workers_time_is_the_engines_own(
    balanced: Balanced, watched: WatchedStore, clock: Clock
) -> None:
    """A 429 without Retry-After is not a time-out: the engine rests, although the worker has little time left."""

    def refuses(call: EngineCall) -> Answer:
        clock.pass_s(1.9)
        return BUSY

    balancer = balanced(only=(an_engine(timeout_s=30), ScriptedEngine(refuses)))
    reply = balancer.call(CALL, call_terms(until_ms=clock.now_ms + 2_000))

    assert str(reply.failure) == "The engine is busy."
    assert watched.engines().states["only"].rest_until_ms == clock.now_ms + 5_000


def test_an_answer_takes_at_least_a_millisecond(balanced: Balanced, clock: Clock) -> None:
    """Otherwise tokens per second would be null for an instant engine, or for a clock that was set back."""

    def set_back(answer: Answer) -> Script:
        def answers(call: EngineCall) -> Answer:
            clock.pass_s(-60)
            return answer

        return answers

    engine = ScriptedEngine("Hello.", set_back("Hello."), set_back(BUSY))
    balancer = balanced(only=(an_engine(), engine))

    durations = [balancer.call(CALL, call_terms()).attempts[0].duration_ms for _ in range(3)]

    assert durations == [1, 1, 0]


def test_an_attempt_says_what_was_used_and_what_was_estimated(balanced: Balanced, clock: Clock) -> None:
    """It has tokens, duration, cost in micro-USD, model and source."""

    def slow(call: EngineCall) -> Answer:
        clock.pass_s(2)
        return a_completion(estimated=True)

    attempt = balanced(only=(an_engine(model="m-7"), ScriptedEngine(slow))).call(CALL, call_terms()).attempts[0]

    assert (attempt.model, attempt.source, attempt.started_ms, attempt.duration_ms) == ("m-7", "api", NOW_MS, 2_000)
    assert (attempt.tokens_in, attempt.tokens_out, attempt.usage_estimated) == (10, 20, True)
    assert attempt.cost_microusd == 10 * 1 + 20 * 2


def test_a_call_of_an_engine_without_a_price_is_unpriced(balanced: Balanced) -> None:
    """The cost is null, not 0."""
    assert (
        balanced(only=(an_engine(price=None), answering())).call(CALL, call_terms()).attempts[0].cost_microusd is None
    )


def test_a_task_pays_what_a_call_cost_and_not_its_worst_case(balanced: Balanced) -> None:
    """267 is reserved for each call; an answer costs 50, a failure 0, and an error of our own may cost all."""
    engine = ScriptedEngine(ZeroDivisionError(), PromptRefused("No."), "Hello.")
    balancer, budget = balanced(only=(an_engine(), engine)), Budget(400 + 267)
    with pytest.raises(ZeroDivisionError):
        balancer.call(CALL, call_terms(budget=budget))
    replies = [balancer.call(CALL, call_terms(budget=budget)) for _ in range(4)]

    assert [bool(reply.completion) for reply in replies] == [False, True, True, True]
    assert engine.calls[-1].max_output_tokens == 100
    last = [balancer.call(CALL, call_terms(budget=budget)) for _ in range(5)][-1]
    assert isinstance(last.failure, LimitReached)
    assert (last.attempts, last.can_be_retried) == ((), False)


def test_an_error_of_this_server_in_place_of_a_call_gives_the_money_back(balanced: Balanced) -> None:
    """The error is raised, because another engine would not help, and its reservation is released."""
    engine = ScriptedEngine(ConfigurationError("Wrong."), "Hello.")
    balancer, budget = balanced(only=(an_engine(), engine)), Budget(266)
    with pytest.raises(ConfigurationError):
        balancer.call(CALL, call_terms(budget=budget))

    reply = balancer.call(CALL, call_terms(budget=budget))

    assert reply.completion is not None
    assert engine.calls[-1].max_output_tokens == 100


def test_a_declined_prompt_costs_what_the_engine_billed(balanced: Balanced) -> None:
    """The engine has read the prompt, so the receipt and the task's budget have the tokens it reports."""
    engine = ScriptedEngine(PromptRefused("Declined.", usage=a_usage(40, 5)), "Hello.")
    balancer, budget = balanced(only=(an_engine(), engine)), Budget(266 + 20)

    declined = balancer.call(CALL, call_terms(budget=budget))
    after = balancer.call(CALL, call_terms(budget=budget))

    (attempt,) = declined.attempts
    assert (attempt.tokens_in, attempt.tokens_out, attempt.cost_microusd) == (40, 5, 50)
    assert attempt.error == "Declined."
    assert after.completion is not None
    assert engine.calls[-1].max_output_tokens < 100


@pytest.mark.parametrize("failure", [EngineUnavailable("Late.", may_be_billed=True), TaskCancelled()])
def test_what_an_engine_may_bill_stays_set_aside(balanced: Balanced, clock: Clock, failure: Answer) -> None:
    """The highest cost of an interrupted call stays reserved, so the limit holds even if it is billed."""
    engine = ScriptedEngine(failure, "Hello.")
    balancer, budget = balanced(only=(an_engine(), engine)), Budget(300)

    (broken,) = balancer.call(CALL, call_terms(budget=budget)).attempts
    clock.pass_s(60)
    again = balancer.call(CALL, call_terms(budget=budget))

    assert (broken.cost_microusd, broken.withheld_microusd) == (0, 266)
    assert isinstance(again.failure, LimitReached)


def test_an_estimate_gives_nothing_back(balanced: Balanced) -> None:
    """An engine that does not report its tokens may have used all that the call allowed."""
    engine = ScriptedEngine(a_completion(estimated=True))
    balancer, budget = balanced(only=(an_engine(), engine)), Budget(266 + 60)

    (attempt,) = balancer.call(CALL, call_terms(budget=budget)).attempts

    assert (attempt.cost_microusd, attempt.withheld_microusd) == (50, 216)
    assert isinstance(balancer.call(CALL, call_terms(budget=budget)).failure, LimitReached)
    assert balancer.call(CALL, call_terms()).attempts[0].withheld_microusd == 216, "also of a task without a limit"


def test_an_engine_the_task_cannot_afford_is_passed_over(balanced: Balanced) -> None:
    """A free engine of the other tier answers instead."""
    dear, free = answering(), answering()
    balancer = balanced(dear=(an_engine(tier="fast"), dear), free=(a_local_engine(tier="strong"), free))

    assert balancer.call(CALL, call_terms(budget=Budget(10))).completion is not None
    assert (len(dear.calls), len(free.calls)) == (0, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_money_that_may_come_back_is_worth_waiting_for(balanced: Balanced, order: int) -> None:
    """The task waits if any candidate lacked only money that is reserved for other calls."""
    refusals = [LimitReached("Too dear."), MoneySetAside()][::order]
    budget = Budget(0)

    def refuse(call: EngineCall, price: Price) -> tuple[EngineCall, Reservation]:
        raise refusals.pop()

    budget.reserve = refuse  # type: ignore[method-assign]
    balancer = balanced(a=(an_engine(), answering()), b=(an_engine(), answering()))

    reply = balancer.call(CALL, call_terms(budget=budget))

    assert (type(reply.failure), reply.attempts, refusals) == (MoneySetAside, (), [])


def test_an_affordable_engine_that_is_busy_is_worth_waiting_for(balanced: Balanced) -> None:
    """The task has reached its limit only if no candidate fits into it."""
    balancer = balanced(
        dear=(an_engine(tier="fast"), answering()), free=(a_local_engine(tier="strong"), ScriptedEngine(BUSY))
    )

    assert balancer.call(CALL, call_terms(budget=Budget(10))).can_be_retried


def test_the_call_that_is_foreseen_is_the_one_that_is_announced(balanced: Balanced) -> None:
    """The same engine with the same worst case, so that nothing must be stored again; nothing is reserved."""
    announced, budget = list[tuple[Attempt, ...]](), Budget(266 + 60)
    balancer = balanced(dear=(an_engine(tier="strong"), answering()), only=(an_engine(), answering()))
    terms = call_terms(budget=budget, announce=announced.append)

    foreseen = balancer.foresee(CALL, terms)
    balancer.call(CALL, terms)

    assert announced == [(foreseen,)]
    assert foreseen is not None
    assert (foreseen.engine, foreseen.failure, foreseen.withheld_microusd) == ("only", "lost", 266)


def test_an_engine_the_task_cannot_afford_is_not_foreseen(balanced: Balanced) -> None:
    balancer = balanced(dear=(an_engine(tier="fast"), answering()), free=(a_local_engine(tier="strong"), answering()))

    foreseen = balancer.foresee(CALL, call_terms(budget=Budget(10)))

    assert foreseen is not None
    assert foreseen.engine == "free"


@pytest.mark.parametrize(("beside_microusd", "is_foreseen"), [(0, True), (60, True), (61, False)])
def test_a_call_beside_others_is_foreseen_only_uncut(
    balanced: Balanced, beside_microusd: int, is_foreseen: bool
) -> None:
    """With a lower output limit it would wait for the others to end."""
    balancer, terms = balanced(only=(an_engine(), answering())), call_terms(budget=Budget(266 + 60))

    assert (balancer.foresee(CALL, terms, beside_microusd=beside_microusd) is not None) is is_foreseen


def test_an_unpriced_call_of_a_task_without_limits_is_lost_unpriced(balanced: Balanced) -> None:
    balancer = balanced(only=(an_engine(price=None), answering()))

    foreseen = balancer.foresee(CALL, call_terms())

    assert foreseen is not None
    assert (foreseen.cost_microusd, foreseen.withheld_microusd) == (None, 0)
    assert balancer.foresee(CALL, call_terms(budget=Budget(10**6))) is None, "a limit needs the price"


def test_prices_are_looked_up_once_before_the_first_claim(watched: WatchedStore, clock: Clock) -> None:
    """The first look-up may import the price library, which takes 0.5 s; no writer must wait for it."""
    asked = list[str]()

    def slow(spec: EngineSpec, usage: Usage) -> int:
        asked.append(spec.model)
        return 1

    catalog = a_catalog({"a": an_engine(model="m-a"), "b": an_engine(model="m-b")})
    balancer = wiring.balancer_of(
        catalog,
        {},
        watched,
        has_credentials=lambda _: True,
        price=slow,
        clock=clock,
        window=Window(lease_s=210),
    )
    for _ in range(2):
        balancer.look_up_prices()

    assert asked == ["m-a", "m-b"]
