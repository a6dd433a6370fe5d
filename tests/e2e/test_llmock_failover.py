"""A balancer over llmock with both kinds of engines: the first one has a fault, and llmock judges the retries.

The fixture `llmock` (https://github.com/JulienRabault/LLMock) is new for each test. Its warning `gave_up` means that
a failed request was not sent to the same engine again, which is failover and the only warning allowed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Delay, Match, Reply

from llm_server import wiring
from llm_server.engines import factory
from llm_server.engines.credentials import Credentials
from llm_server.engines.parts import EngineParts
from llm_server.orchestration.dispatch.balancer import Balancer
from llm_server.orchestration.dispatch.balancer import Reply as Outcome
from llm_server.orchestration.dispatch.retry_budget import MAX_CALLS_A_STEP
from llm_server.orchestration.dispatch.window import Window
from llm_server.orchestration.domain.engines.allowed import ANY_ENGINE
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.execution import plan_proposal
from llm_server.orchestration.routing.analysis import analyse
from support.scripted_engine import WatchedStore, a_catalog, a_local_engine, call_terms, price

CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=200)
SCHEMA = AnswerSchema(name="plan", schema=plan_proposal.schema(["QA-Agent", "Writing-Agent"]))
PLAN_CALL = EngineCall(system="Plan.", messages=user("Build, then test."), max_output_tokens=500, answer_schema=SCHEMA)
KINDS = ("openai", "anthropic")
FIRST = Match(model="e0")
Make = Callable[..., Balancer]


@pytest.fixture(params=[KINDS, KINDS[::-1]], ids=["openai-first", "anthropic-first"])
def kinds(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@pytest.fixture
def balanced(llmock: LLMock, kinds: tuple[str, ...], watched: WatchedStore) -> Make:
    """Make a balancer over the engines `e0`, `e1`, ..., called in this order, of both kinds in turn."""

    def make(count: int = 2, *, timeout_s: int = 10) -> Balancer:
        engines = {
            f"e{n}": a_local_engine(kind=kind, model=f"e{n}", base_url=llmock.base_url(kind), timeout_s=timeout_s)
            for n, kind in enumerate((kinds * count)[:count])
        }
        catalog = a_catalog(engines)
        adapters = factory.build(EngineParts(catalog=catalog, credentials=Credentials({}), analyse=analyse))
        return wiring.balancer_of(
            catalog, adapters, watched, has_credentials=lambda spec: True, price=price, window=Window(lease_s=210)
        )

    return make


def ask(balancer: Balancer, call: EngineCall = CALL) -> Outcome:
    return balancer.call(call, call_terms(until_ms=wiring.now_ms() + 30_000))


def asked(llmock: LLMock) -> list[str | None]:
    return [record.model for record in llmock.requests]


def judged(llmock: LLMock) -> set[str]:
    """Return the codes of llmock's warnings; its errors fail the test."""
    llmock.assert_resilient()
    return {finding.code for finding in llmock.verdict().findings}


@pytest.mark.parametrize("status", [401, 404, 408, 429, 500, 502, 503, 504, 529])
def test_the_next_engine_answers_at_once_and_the_failed_one_is_not_called_again(
    llmock: LLMock, balanced: Make, status: int
) -> None:
    llmock.fail(status, times=None, model="e0")
    balancer = balanced()

    replies = [ask(balancer) for _ in range(3)]

    assert all(reply.completion for reply in replies)
    assert asked(llmock) == ["e0", "e1", "e1", "e1"]
    assert judged(llmock) == (set() if status in (401, 404) else {"gave_up"})


def test_a_slow_engine_costs_no_more_than_its_timeout(llmock: LLMock, balanced: Make) -> None:
    llmock.add(Delay(2.9, match=FIRST))
    started_s = time.monotonic()
    reply = ask(balanced(timeout_s=1))
    took_s = time.monotonic() - started_s

    assert reply.completion
    assert [attempt.error for attempt in reply.attempts] == ["The engine did not answer in time.", None]
    assert 1.0 <= took_s < 2.8
    assert sorted(map(str, asked(llmock))) == ["e0", "e1"]
    assert judged(llmock) == set()


def test_an_outage_of_all_engines_causes_few_requests(llmock: LLMock, balanced: Make) -> None:
    """A step calls at most three engines, and a cooling engine is not called."""
    llmock.outage(status=500)
    balancer = balanced(5)
    first = ask(balancer)
    replies = [ask(balancer) for _ in range(20)]

    assert len(first.attempts) == MAX_CALLS_A_STEP
    assert all(isinstance(reply.failure, EngineUnavailable) for reply in [first, *replies])
    assert asked(llmock) == ["e0", "e1", "e2", "e3", "e4"]
    assert judged(llmock) == {"gave_up"}


def test_an_engine_with_an_exhausted_quota_is_not_called(llmock: LLMock, balanced: Make) -> None:
    """One request a minute for each provider.

    From the third call on all are exhausted, and the fourth sends nothing.
    """
    llmock.limits(rpm=1)
    balancer = balanced()
    replies = [ask(balancer) for _ in range(4)]

    assert [bool(reply.completion) for reply in replies] == [True, True, False, False]
    assert asked(llmock) == ["e0", "e0", "e1", "e1"]
    assert replies[-1].outage
    assert min(balancer.fleet.return_times(ANY_ENGINE).values()) - wiring.now_ms() > 50_000
    assert judged(llmock) == {"gave_up"}


def test_a_prompt_too_long_for_one_engine_is_not_sent_to_another(
    llmock: LLMock, balanced: Make, kinds: tuple[str, ...]
) -> None:
    llmock.limits(context_window=10)
    reply = ask(balanced(), EngineCall(system="", messages=user("word " * 100), max_output_tokens=20))

    assert isinstance(reply.failure, PromptRefused)
    assert ("prompt is too long" if kinds[0] == "anthropic" else "maximum context length is 10") in str(reply.failure)
    assert asked(llmock) == ["e0"]
    assert judged(llmock) == set()


def test_a_refused_schema_is_sent_in_the_prompt_instead(llmock: LLMock, balanced: Make) -> None:
    """The second request must differ, because llmock reports the same request after a 400 as an error."""
    llmock.fail(400, model="e0")
    assert ask(balanced(), PLAN_CALL).completion

    assert asked(llmock) == ["e0", "e0"]
    with_field, in_words = (record.body for record in llmock.requests)
    assert "depends_on" in str(with_field.get("response_format") or with_field["output_config"])
    assert in_words.get("response_format", {"type": "json_object"}) == {"type": "json_object"}
    assert "output_config" not in in_words
    assert "depends_on" in str(in_words)
    assert judged(llmock) == set()


def test_an_empty_answer_goes_to_the_next_engine(llmock: LLMock, balanced: Make) -> None:
    llmock.add(Reply(text="", match=FIRST))
    reply = ask(balanced())

    assert reply.completion
    assert [attempt.error for attempt in reply.attempts] == ["The engine's answer is empty.", None]
    assert asked(llmock) == ["e0", "e1"]
    assert judged(llmock) == set()


@pytest.mark.parametrize(("ended", "cut"), [("length", True), ("stop", False)])
def test_an_answer_tells_whether_it_was_cut(llmock: LLMock, balanced: Make, ended: str, cut: bool) -> None:
    llmock.add(Reply(text="Half an", finish_reason=ended, match=FIRST))
    completion = ask(balanced()).completion

    assert completion is not None
    assert (completion.text, completion.truncated) == ("Half an", cut)
    assert completion.usage.tokens_in > 0
    assert not completion.usage.estimated
