"""A count that cannot be true is flagged and limited: it uses up no money and distorts no figure."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace

from llm_server.engines.prices import price
from llm_server.engines.usage import chat_usage
from llm_server.engines.wire import completion
from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.dispatch.attempts import EngineFailure
from llm_server.orchestration.dispatch.plausibility import MAX_ADDED_TOKENS_IN, MAX_ADDED_TOKENS_OUT, limited
from llm_server.orchestration.dispatch.reservation import MIN_OUTPUT_TOKENS, fit, max_tokens_in, worst_case
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EnginePrice, EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled
from llm_server.orchestration.domain.receipt import Attempt
from support.builders import an_attempt
from support.scripted_engine import Answer, Balanced, ScriptedEngine, a_catalog, a_completion, a_usage, an_engine
from support.scripted_engine import call_terms as terms

CALL = EngineCall(system="Be brief.", messages=user("Is it so?"), max_output_tokens=50)
MOST_IN, MOST_OUT = max_tokens_in(CALL), 50
WORST = 1_000_000


def by_class(usage: Usage) -> int:
    """Return a cost in which writing for an hour is the dearest input."""
    cached, written = usage.cache_read_tokens, usage.cache_write_tokens
    return usage.input_tokens * 10 + cached + written * 12 + usage.cache_write_1h_tokens * 20 + usage.output_tokens * 30


def finished(answer: Answer | EngineFailure, call: EngineCall = CALL) -> Attempt:
    """Return the attempt of a call with this answer, for which USD 1 was reserved."""
    assert not isinstance(answer, str)
    started = an_attempt(tokens_in=0, tokens_out=0, cost_microusd=0)
    return attempts.finish(started, call, answer, took_ms=60_000, price=by_class, reserved_microusd=WORST)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "usage",
    [
        a_usage(MOST_IN, MOST_OUT),
        a_usage(MOST_IN + MAX_ADDED_TOKENS_IN, MOST_OUT + MAX_ADDED_TOKENS_OUT),
        Usage(input_tokens=1, cache_read_tokens=MOST_IN, output_tokens=1, reasoning_tokens=1),
        a_usage(0, 0),
    ],
)
def test_a_count_within_the_call_is_believed(usage: Usage) -> None:
    """A chat template or a system prompt of the engine adds tokens to a short prompt."""
    assert limited(usage, CALL) == usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (a_usage(5, 100_000_000), a_usage(5, MOST_OUT, implausible=True)),
        (a_usage(5, MOST_OUT + MAX_ADDED_TOKENS_OUT + 1), a_usage(5, MOST_OUT, implausible=True)),
        (a_usage(5, 900, reasoning_tokens=800), a_usage(5, MOST_OUT, reasoning_tokens=MOST_OUT, implausible=True)),
        (a_usage(100_000_000, 7), a_usage(MOST_IN, 7, implausible=True)),
        (
            Usage(cache_read_tokens=MOST_IN + MAX_ADDED_TOKENS_IN + 1, output_tokens=7, reasoning_tokens=3),
            a_usage(MOST_IN, 7, reasoning_tokens=3, implausible=True),
        ),
        (a_usage(10**8, 10**8, estimated=True), a_usage(MOST_IN, MOST_OUT, estimated=True, implausible=True)),
    ],
)
def test_a_count_beyond_the_call_is_replaced_by_the_most_it_could_use(reported: Usage, usage: Usage) -> None:
    assert limited(reported, CALL) == usage


def test_reasoning_beyond_the_output_limit_is_believed_where_the_limit_leaves_it_out() -> None:
    """xAI: a call limited to 64 tokens was billed for 98, of which 97 were reasoning."""
    call, reported = replace(CALL, max_reasoning_tokens=1_000), a_usage(5, 1_040, reasoning_tokens=1_000)

    assert limited(reported, call) == reported
    assert limited(reported, CALL).implausible
    assert limited(a_usage(5, 2_000), call) == a_usage(5, 1_050, implausible=True)


def test_a_call_with_an_implausible_count_costs_its_limit_and_the_rest_of_the_worst_case_stays_set_aside() -> None:
    attempt = finished(a_completion(tokens_in=5, tokens_out=100_000_000))

    assert (attempt.tokens_out, attempt.usage_implausible, attempt.usage_estimated) == (MOST_OUT, True, False)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (5 * 10 + 50 * 30, WORST - 5 * 10 - 50 * 30)


@pytest.mark.parametrize("reported", [100_000_000, 100_000_001, 10**12, 1e12])
def test_every_count_beyond_the_limit_costs_the_limit(reported: float) -> None:
    """By hand: 5 tokens of input at USD 2.50 and 50 of output at USD 10 for a million are 512.5 millionths."""
    usage = chat_usage({"usage": {"prompt_tokens": 5, "completion_tokens": reported}})
    answer = completion(CALL, "Yes.", usage, truncated=False)
    started = an_attempt(tokens_in=0, tokens_out=0, cost_microusd=0)
    cost = partial(price, EngineSpec(kind="openai", source="api", model="m", price=EnginePrice(input=2.5, output=10)))
    attempt = attempts.finish(started, CALL, answer, took_ms=1, price=cost, reserved_microusd=WORST)

    assert (attempt.tokens_in, attempt.tokens_out, attempt.usage_implausible) == (5, 50, True)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (513, WORST - 513)


def test_a_declined_prompt_with_an_implausible_count_costs_its_limit_too() -> None:
    attempt = finished(PromptRefused("No.", usage=a_usage(100_000_000, 0)))

    assert (attempt.tokens_in, attempt.cost_microusd, attempt.usage_implausible) == (MOST_IN, MOST_IN * 10, True)


def test_an_implausible_count_is_logged_as_reported(caplog: pytest.LogCaptureFixture) -> None:
    finished(a_completion(tokens_in=5, tokens_out=100_000_000))

    (record,) = caplog.records
    assert (record.message, record.__dict__["engine"]) == ("implausible token counts", "gpt")
    assert (record.__dict__["tokens_in"], record.__dict__["tokens_out"]) == (5, 100_000_000)


def test_an_attempt_shows_each_class_of_tokens() -> None:
    counts = Usage(
        input_tokens=1,
        cache_read_tokens=2,
        cache_write_tokens=3,
        cache_write_1h_tokens=4,
        output_tokens=40,
        reasoning_tokens=30,
    )
    attempt = finished(replace(a_completion(), usage=counts))

    assert (attempt.tokens_in, attempt.tokens_out, attempt.reasoning_tokens) == (10, 40, 30)
    assert (attempt.cache_read_tokens, attempt.cache_write_tokens, attempt.cache_write_1h_tokens) == (2, 7, 4)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (10 + 2 + 36 + 80 + 1_200, 0)


@pytest.mark.parametrize(
    "answer",
    [
        TaskCancelled(),
        EngineUnavailable("Late.", kind="timeout", may_be_billed=True),
        EngineUnavailable("Broken off.", may_be_billed=True),
    ],
    ids=["cancelled", "timed out", "broken off"],
)
def test_a_call_that_was_cut_off_shows_its_time_and_an_estimate_of_its_input(answer: EngineFailure) -> None:
    """What the engine charges for it is unknown, so nothing is on the receipt and its worst case stays set aside."""
    attempt = finished(answer)

    assert (attempt.duration_ms, attempt.tokens_in, attempt.tokens_out) == (60_000, 5, 0)
    assert (attempt.usage_estimated, attempt.usage_implausible) == (True, False)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (0, WORST)


def test_a_call_that_the_engine_turned_away_used_nothing() -> None:
    attempt = finished(EngineUnavailable("Busy."))

    assert (attempt.tokens_in, attempt.usage_estimated, attempt.withheld_microusd) == (0, False, 0)


def test_the_worst_case_takes_the_dearest_class_of_input() -> None:
    """The engine decides what it writes to its cache, and for how long."""
    assert worst_case(CALL, by_class) == MOST_IN * 20 + MOST_OUT * 30
    assert worst_case(replace(CALL, max_reasoning_tokens=9), by_class) == MOST_IN * 20 + (MOST_OUT + 9) * 30
    assert worst_case(CALL, lambda _: None) is None


def test_the_worst_case_is_a_bound_at_the_price_for_long_prompts() -> None:
    """A prompt of 300,000 bytes may have more than 272,000 tokens, and each of them costs more then."""
    spec = EngineSpec(kind="openai", source="api", model="gpt-5.4", price_provider="openai")
    call = EngineCall(system="", messages=user("x" * 300_000), max_output_tokens=100)
    dearest = Usage(input_tokens=299_000, output_tokens=100)

    most, cost = worst_case(call, partial(price, spec)), price(spec, dearest)
    assert most is not None
    assert cost == 299_000 * 5 + 2_250
    assert cost <= most < cost * 1.01


def test_a_lowered_output_limit_leaves_the_money_for_the_reasoning() -> None:
    call, made = replace(CALL, max_reasoning_tokens=100), (MOST_IN * 20 + 100 * 30 + 20 * 30)

    fitted, reserved = fit(call, by_class, made, "max_cost_usd")

    assert (fitted.max_reasoning_tokens, reserved <= made) == (100, True)
    assert MIN_OUTPUT_TOKENS <= fitted.max_output_tokens < 20


@pytest.mark.parametrize(
    ("model", "configured", "most"),
    [("m-1", None, 0), ("grok-4", None, 16_384), ("x-ai/Grok-4.6", None, 16_384), ("grok-4", 0, 0), ("m-1", 9, 9)],
)
def test_an_engine_is_asked_with_the_reasoning_that_its_limit_leaves_out(
    balanced: Balanced, model: str, configured: int | None, most: int
) -> None:
    spec, engine = an_engine(model=model, max_reasoning_tokens=configured), ScriptedEngine()
    balanced(only=(spec, engine)).call(CALL, terms())

    assert engine.calls == [replace(CALL, max_reasoning_tokens=most)]
    assert a_catalog({"only": spec}).max_reasoning_tokens("only") == most
