"""What a streamed call costs when it breaks off, and answers that ask for function calls instead of having a text."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch import attempts
from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.dispatch.reservation import max_tokens_in
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.message import Tool, ToolCall, user
from llm_server.orchestration.domain.engines.usage import Usage
from llm_server.orchestration.domain.errors import (
    EngineUnavailable,
    OutOfTime,
    StorageUnavailable,
    TaskCancelled,
)
from llm_server.orchestration.domain.receipt import Attempt
from support.builders import an_attempt
from support.scripted_engine import Answer, Balanced, ScriptedEngine, a_usage, an_engine, call_terms

CALL = EngineCall(system="s", messages=user("p"), max_output_tokens=100)
RESERVED = 1_000


def finished(answer: EngineUnavailable | TaskCancelled | Completion) -> Attempt:
    """Return the attempt of a call that cost 1 for each token, and for which 1,000 was reserved."""
    started = an_attempt(tokens_in=0, tokens_out=0, cost_microusd=0)
    price = lambda usage: usage.tokens_in + usage.output_tokens  # noqa: E731
    return attempts.finish(started, CALL, answer, took_ms=1, price=price, reserved_microusd=RESERVED)


@pytest.mark.parametrize(
    "failure",
    [
        EngineUnavailable("Cut.", may_be_billed=True, usage=a_usage(11, 7, estimated=True)),
        TaskCancelled(a_usage(11, 7, estimated=True)),
    ],
)
def test_a_broken_stream_shows_its_tokens_and_its_worst_case_is_withheld(
    failure: EngineUnavailable | TaskCancelled,
) -> None:
    """What it costs is not known: a price of the estimates would be too low."""
    attempt = finished(failure)

    assert (attempt.tokens_in, attempt.tokens_out, attempt.usage_estimated) == (11, 7, True)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (0, RESERVED)
    assert attempt.error == str(failure)


@pytest.mark.parametrize("failure", [EngineUnavailable("Cut.", usage=a_usage(11, 7)), TaskCancelled(a_usage(11, 7))])
def test_a_broken_stream_whose_tokens_were_all_reported_costs_what_they_cost(
    failure: EngineUnavailable | TaskCancelled,
) -> None:
    attempt = finished(failure)

    assert (attempt.tokens_in, attempt.tokens_out, attempt.usage_estimated) == (11, 7, False)
    assert (attempt.cost_microusd, attempt.withheld_microusd) == (18, 0)


def test_counts_of_a_broken_stream_that_cannot_be_true_are_limited() -> None:
    attempt = finished(EngineUnavailable("Cut.", usage=a_usage(10**8, 7)))

    assert attempt.usage_implausible
    assert attempt.tokens_in < 10**8
    assert attempt.cost_microusd == attempt.tokens_in + 7
    assert attempt.withheld_microusd == RESERVED - attempt.cost_microusd


def streaming(call: EngineCall) -> Answer:
    """Pass a piece of text on, and answer."""
    assert call.on_text is not None
    call.on_text("Hello.")
    return "Hello."


@pytest.mark.parametrize(
    "error", [StorageUnavailable("Down."), OutOfTime("Late."), EngineUnavailable("Not one."), KeyError("a bug")]
)
def test_money_of_a_call_stays_withheld_if_its_stream_cannot_be_stored(balanced: Balanced, error: Exception) -> None:
    """The engine was at work, and may bill it. Released money would be spent twice."""

    budget, during = Budget(1_000), list[int | None]()

    def failing(_: str) -> None:
        during.append(budget.left_microusd)
        raise error

    balancer = balanced(a=(an_engine(), ScriptedEngine(streaming)))
    with pytest.raises(type(error)) as caught:
        balancer.call(CALL, call_terms(budget=budget, open_item=lambda _: failing))

    assert caught.value is error
    assert during == [budget.left_microusd]
    assert budget.left_microusd is not None
    assert budget.left_microusd < 1_000


def test_a_streamed_call_that_is_answered_releases_what_it_did_not_cost(balanced: Balanced) -> None:
    budget, pieces = Budget(1_000), list[str]()
    balancer = balanced(a=(an_engine(), ScriptedEngine(streaming)))

    reply = balancer.call(CALL, call_terms(budget=budget, open_item=lambda _: pieces.append))

    assert budget.left_microusd == 1_000 - (reply.attempts[0].cost_microusd or 0)
    assert pieces == ["Hello."]


def test_an_answer_of_function_calls_alone_is_not_empty(balanced: Balanced) -> None:
    asked = ToolCall(call_id="c1", name="f", arguments="{}")
    answer = Completion(text="", usage=Usage(input_tokens=5, output_tokens=3), tool_calls=(asked,))
    balancer = balanced(a=(an_engine(), ScriptedEngine(answer)))

    reply = balancer.call(CALL, call_terms())

    assert reply.completion == answer
    assert [(attempt.error, attempt.failure) for attempt in reply.attempts] == [(None, None)]


def test_tools_count_in_the_reservation() -> None:
    """The model reads their descriptions, so they are paid for."""
    tool = Tool(name="f", description="x" * 1_000)

    assert max_tokens_in(replace(CALL, tools=(tool,))) >= max_tokens_in(CALL) + 1_000
