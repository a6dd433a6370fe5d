"""What every engine adapter promises, whatever its wire: the same answers, failures and deadlines."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Thread, Timer
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.bedrock import BedrockEngine
from llm_server.engines.connections import EnginePool
from llm_server.engines.embedded import EmbeddedEngine
from llm_server.engines.openai import OpenAIEngine
from llm_server.engines.usage import MAX_TOKENS
from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines.call import AnswerSchema, Engine
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused, TaskCancelled
from llm_server.orchestration.execution import plan_proposal
from llm_server.orchestration.routing.analysis import analyse
from support.engine_wires import CALL, KEY, WIRES, Wired, pool, server, wire, wired
from support.fake_engine import FakeEngine, Fault, body, changed, drip, fake_engine, raw, reset, silence, status

ROLES = ["Fast-Coder-Agent", "QA-Agent", "Writing-Agent"]
OBJECT = {"type": "json_object"}
PLAN_CALL = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=plan_proposal.schema(ROLES)))
__all__ = ["pool", "server", "wired"]  # fixtures


@pytest.fixture(params=[*WIRES, "embedded"])
def any_engine(request: pytest.FixtureRequest, server: FakeEngine, pool: EnginePool) -> Engine:
    if request.param == "embedded":
        return EmbeddedEngine(analyse)
    return wire(request.param, server, pool).engine


def test_a_prompt_is_answered(any_engine: Engine) -> None:
    completion = any_engine.complete(replace(CALL, max_output_tokens=500), timeout_s=5)

    assert completion.text
    assert completion.usage.tokens_in > 0
    assert completion.usage.output_tokens > 0
    assert not completion.truncated


def test_a_plan_that_is_asked_for_can_be_carried_out(any_engine: Engine) -> None:
    completion = any_engine.complete(replace(PLAN_CALL, max_output_tokens=500), timeout_s=5)

    assert plan_proposal.parse(completion.text, ROLES).steps


def test_reported_tokens_are_passed_on(wired: Wired) -> None:
    completion = wired.engine.complete(CALL, timeout_s=5)

    assert (completion.usage.tokens_in, completion.usage.output_tokens) == (11, 7)
    assert not completion.usage.estimated


def test_tokens_of_the_cache_and_of_the_reasoning_are_passed_on(wired: Wired) -> None:
    """Chat Completions counts the cache inside the input; Messages and Converse count it beside it."""
    usage = {
        "prompt_tokens": 31,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 5},
        "input_tokens": 11,
        "output_tokens": 7,
        "cache_read_input_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
        "inputTokens": 11,
        "outputTokens": 7,
        "totalTokens": 38,
        "cacheReadInputTokens": 20,
    }
    wired.server.script(changed(lambda answer: answer.update(usage=usage)))

    found = wired.engine.complete(CALL, timeout_s=5).usage

    assert (found.input_tokens, found.cache_read_tokens, found.output_tokens) == (11, 20, 7)
    assert found.reasoning_tokens == (0 if isinstance(wired.engine, BedrockEngine) else 5), "Converse does not tell"
    assert not found.estimated
    assert not found.implausible


def test_a_count_that_cannot_be_is_read_as_the_largest_and_marked(wired: Wired) -> None:
    """It is then priced at the limit of the call, not by an estimate of the text."""
    usage = {"prompt_tokens": 10**19, "input_tokens": 10**19, "inputTokens": 10**19}
    wired.server.script(changed(lambda answer: answer["usage"].update(usage)))

    found = wired.engine.complete(CALL, timeout_s=5).usage

    assert (found.tokens_in, found.implausible) == (MAX_TOKENS, True)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "input_tokens": None, "inputTokens": None},
    ],
)
def test_tokens_that_are_not_reported_are_estimated_and_marked(wired: Wired, usage: Any) -> None:
    wired.server.script(changed(lambda answer: answer.update(usage=usage)))

    completion = wired.engine.complete(CALL, timeout_s=5)

    assert completion.text == wired.server.text
    assert completion.usage.estimated
    assert completion.usage.tokens_in == -(-len(CALL.system + CALL.prompt) // 4)
    assert completion.usage.output_tokens == -(-len(completion.text) // 4)


def test_an_answer_cut_by_the_limit_is_marked(wired: Wired) -> None:
    wired.server.script(changed(wired.cut))

    assert wired.engine.complete(CALL, timeout_s=5).truncated


def test_a_declined_prompt_is_refused_for_good(wired: Wired) -> None:
    assert isinstance(wired.fails(changed(wired.refused)), PromptRefused)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (401, "credentials"),
        (403, "credentials"),
        (404, "garbage"),
        (408, "busy"),
        (409, "busy"),
        (429, "busy"),
        (500, "busy"),
        (502, "busy"),
        (503, "busy"),
        (504, "busy"),
        (524, "busy"),
        (529, "busy"),
    ],
)
def test_another_engine_is_tried_after_a_status_that_is_the_engines_own_fault(
    wired: Wired, code: int, kind: str
) -> None:
    failure = wired.fails(status(code))

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == kind
    assert str(code) in str(failure)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_prompt_no_engine_would_take_is_refused_with_the_engines_reason(wired: Wired, code: int) -> None:
    failure = wired.fails(status(code, _said("This is longer than 8192 tokens.")))

    assert isinstance(failure, PromptRefused)
    assert "This is longer than 8192 tokens." in str(failure)


@pytest.mark.parametrize(
    "said",
    [
        f"I do not take {CALL.prompt}",
        f"{KEY} may not ask for {CALL.prompt} here",
        "invalid text 'canary'",
        "x" * 100_000,
    ],
)
def test_a_reason_that_repeats_the_prompt_or_the_key_is_not_shown(wired: Wired, said: str) -> None:
    assert len(str(wired.fails(status(400, _said(said))))) < 300


def _said(message: str) -> dict[str, Any]:
    """An error body that all three wires read."""
    return {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": message},
        "message": message,
    }


@pytest.mark.parametrize(
    ("header", "min_s", "max_s"),
    [
        ("3", 3, 3),
        (" 2.5 ", 2.5, 2.5),
        ("0", 0, 0),
        ("86400", 600, 600),
        ("9" * 400, 600, 600),
        ("in a minute", 50, 60),
        ("yesterday", 0, 0),
        ("in ten years", 600, 600),
    ],
)
def test_the_engine_says_when_it_can_be_asked_again(wired: Wired, header: str, min_s: float, max_s: float) -> None:
    """Seconds or an HTTP date, at most ten minutes."""
    ago = {"in a minute": 60, "yesterday": -86_400, "in ten years": 315_360_000}
    if header in ago:
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=ago[header]), usegmt=True)
    failure = wired.fails(status(429, retry_after=header))

    assert isinstance(failure, EngineUnavailable)
    assert failure.retry_after_s is not None
    assert min_s <= failure.retry_after_s <= max_s


@pytest.mark.parametrize("header", ["", "soon", "-1", "1e9", "nan", "inf", "1,5", "Fri, 99 Foo 2026 25:61:00 GMT", "٣"])
def test_nonsense_in_retry_after_is_ignored(wired: Wired, header: str) -> None:
    failure = wired.fails(
        raw(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: %b\r\ncontent-length: 2\r\n\r\n{}" % header.encode())
    )

    assert isinstance(failure, EngineUnavailable)
    assert (failure.kind, failure.retry_after_s) == ("busy", None)


def test_a_cut_connection_means_the_engine_is_busy(wired: Wired) -> None:
    failure = wired.fails(reset)

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == "busy"


@pytest.mark.parametrize(
    "data",
    [
        b'HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"choices": [',
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nlots\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"x-many: headers\r\n" * 500 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
    ids=["short", "chunk", "size", "headers", "gzip", "ssh", "empty"],
)
def test_an_answer_that_breaks_the_protocol_leaves_the_prompt_to_another_engine(wired: Wired, data: bytes) -> None:
    """Busy or garbage: how much a client library tells differs."""
    failure = wired.fails(raw(data))

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind in ("busy", "garbage")


@pytest.mark.parametrize("fault", [silence, drip("headers"), drip("body")], ids=["silence", "headers", "body"])
def test_no_answer_takes_longer_than_its_time(wired: Wired, fault: Fault) -> None:
    """A time-out between bytes would never end a slow drip."""
    wired.engine.complete(CALL, timeout_s=5)  # the client is made here, not within the time that is measured
    started_s = time.monotonic()
    failure = wired.fails(fault, timeout_s=0.25)

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == "timeout"
    assert 0.2 < time.monotonic() - started_s < 1.0


@pytest.mark.parametrize(
    "fault",
    [
        body(b"not json"),
        body(b"<html><body>Bad gateway</body></html>", "text/html"),
        body(b""),
        body(b"[1, 2]"),
        body(b"null"),
        body({}),
        body({"choices": [], "content": None, "output": {}}),
        body({"choices": "no", "content": "no", "output": "no"}),
        body(b'{"a": NaN}'),
        body(b'{"choices": "\xff"}'),
        body(b"[" * 100_000),
        status(301, location="http://127.0.0.1:9/"),
        status(204, b""),
    ],
    ids=[
        "text",
        "html",
        "empty",
        "list",
        "null",
        "object",
        "nothing",
        "wrong",
        "nan",
        "utf8",
        "nested",
        "redirect",
        "no-content",
    ],
)
def test_what_is_no_completion_is_garbage(wired: Wired, fault: Fault) -> None:
    failure = wired.fails(fault)

    assert isinstance(failure, EngineUnavailable)
    assert failure.kind == "garbage"


def test_an_answer_of_seventeen_megabytes_is_not_kept(wired: Wired) -> None:
    wired.server.text = "x" * 17_000_000
    with pytest.raises(EngineUnavailable) as caught:
        wired.engine.complete(CALL, timeout_s=5)
    assert caught.value.kind == "garbage"
    wired.server.text = "x" * 1_000_000

    assert len(wired.engine.complete(CALL, timeout_s=5).text) == 1_000_000


def test_a_failed_call_is_not_repeated(wired: Wired) -> None:
    """A second call might be charged too. The balancer decides about retries."""
    for fault in (status(500), status(429), reset):
        before = len(wired.server.seen)
        wired.fails(fault)
        assert len(wired.server.seen) == before + 1


def test_an_engine_that_failed_answers_the_next_call(wired: Wired) -> None:
    for fault in (status(500), reset, body(b"<html>"), raw(b"nonsense\r\n\r\n")):
        wired.fails(fault)
        assert wired.engine.complete(CALL, timeout_s=5).text == wired.server.text


def test_an_engine_that_is_not_there_is_unreachable(wired: Wired, pool: EnginePool) -> None:
    with fake_engine() as gone:
        pass
    name = {OpenAIEngine: "openai", AnthropicEngine: "anthropic", BedrockEngine: "bedrock"}[type(wired.engine)]
    with pytest.raises(EngineUnavailable) as caught:
        wire(name, gone, pool).engine.complete(CALL, timeout_s=5)

    assert caught.value.kind == "unreachable"


def test_a_schema_goes_into_the_field_of_the_api(wired: Wired) -> None:
    wired.engine.complete(PLAN_CALL, timeout_s=5)

    assert {"response_format", "output_config", "outputConfig"} & wired.server.last.body.keys()
    assert len(wired.server.seen) == 1


def test_a_schema_the_api_does_not_take_goes_into_the_text(wired: Wired) -> None:
    """Not every server has the field. What it refused once it is not asked again.

    If the API has a demand for any JSON object, that is tried first.
    """
    wired.server.script(status(400, _said("response_format is not supported")))

    wired.engine.complete(PLAN_CALL, timeout_s=5)
    wired.engine.complete(PLAN_CALL, timeout_s=5)

    assert len(wired.server.seen) == 3
    for seen in wired.server.seen[1:]:
        assert seen.body.pop("response_format", OBJECT) == OBJECT
        assert not {"output_config", "outputConfig"} & seen.body.keys()
        assert "depends_on" in str(seen.body.get("system") or seen.body["messages"][0])


def test_a_prompt_refused_with_and_without_schema_leaves_the_field_in_use(wired: Wired) -> None:
    """A prompt that is too long says nothing about the field."""
    ways = 3 if getattr(wired.engine, "has_json_object", False) else 2
    wired.server.script(*[status(400)] * ways)
    with pytest.raises(PromptRefused):
        wired.engine.complete(PLAN_CALL, timeout_s=5)

    wired.engine.complete(PLAN_CALL, timeout_s=5)

    assert len(wired.server.seen) == ways + 1
    assert {"response_format", "output_config", "outputConfig"} & wired.server.last.body.keys()


def test_a_declined_plan_is_not_asked_for_twice(wired: Wired) -> None:
    """Content refused has been paid for; only a bad request is free to be written otherwise."""
    wired.server.script(changed(wired.refused))
    with pytest.raises(PromptRefused):
        wired.engine.complete(PLAN_CALL, timeout_s=5)

    assert len(wired.server.seen) == 1


def test_unicode_comes_back_as_it_was_sent(wired: Wired) -> None:
    wired.server.answer = _prompt_of
    legal = '日本語 \x00 🧪 é \u202e "quoted" \u2028 end'

    assert wired.engine.complete(replace(CALL, messages=user(legal)), timeout_s=5).text == legal


def test_many_threads_share_one_adapter(wired: Wired) -> None:
    wired.server.answer = _prompt_of
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        call = replace(CALL, messages=user(f"number {number};"))
        answers[number] = wired.engine.complete(call, timeout_s=10).text

    threads = [Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {number: f"number {number};" for number in range(24)}


def _prompt_of(asked: Any) -> str:
    content = asked["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


@pytest.mark.parametrize("fault", [silence, drip("headers"), drip("body")])
def test_a_call_ends_when_its_task_is_cancelled(wired: Wired, fault: Fault) -> None:
    """A cancelled call ends within a second; the engine does not rest for it, and the next call succeeds."""
    wired.engine.complete(CALL, timeout_s=5)  # boto3 takes its time to begin
    wired.server.script(fault)
    cancellation = Cancellation()
    Timer(0.2, cancellation.cancel).start()
    started_s = time.monotonic()

    with pytest.raises(TaskCancelled):
        wired.engine.complete(replace(CALL, cancellation=cancellation), timeout_s=30)
    assert time.monotonic() - started_s < 1.2
    assert wired.engine.complete(CALL, timeout_s=5).text == wired.server.text


def test_a_call_of_a_cancelled_task_is_not_made(wired: Wired) -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    with pytest.raises(TaskCancelled):
        wired.engine.complete(replace(CALL, cancellation=cancellation), timeout_s=5)
    assert wired.server.seen == []


def test_a_cancellation_does_not_reach_the_calls_of_other_tasks(wired: Wired) -> None:
    """Connections are shared: one that was used before may be another call's by now."""
    cancelled, answers = Cancellation(), list[str]()
    wired.engine.complete(replace(CALL, cancellation=cancelled), timeout_s=5)
    wired.server.latency_s = 0.3
    other = Thread(target=lambda: answers.append(wired.engine.complete(CALL, timeout_s=5).text))
    other.start()
    time.sleep(0.1)
    cancelled.cancel()
    other.join()

    assert answers == [wired.server.text]
