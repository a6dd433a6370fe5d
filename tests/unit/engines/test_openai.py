"""The parts of the Chat Completions API that differ from other APIs."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.connections import EnginePool
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.execution import plan_proposal
from support.fake_engine import FakeEngine, body, changed, fake_engine, silence, status

CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=50, temperature=0.7)
PLAN_CALL = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=plan_proposal.schema(["QA-Agent"])))


@pytest.fixture
def server() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


def engine(server: FakeEngine, key: str | None = "k", **changes: Any) -> OpenAIEngine:
    settings = {"kind": "openai", "source": "api", "model": "m-1", "base_url": server.base_url} | changes
    return OpenAIEngine(EngineSpec(**settings), EnginePool(), lambda: key)


def test_a_prompt_is_sent_with_its_role_and_limits(server: FakeEngine) -> None:
    engine(server).complete(CALL, timeout_s=5)

    assert server.last.path == "/v1/chat/completions"
    assert server.last.headers["authorization"] == "Bearer k"
    assert server.last.body == {
        "model": "m-1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        "max_tokens": 50,
        "temperature": 0.7,
    }


def test_models_that_refuse_the_usual_fields_get_theirs(server: FakeEngine) -> None:
    reasoning = engine(server, max_tokens_field="max_completion_tokens", send_temperature=False)
    reasoning.complete(CALL, timeout_s=5)

    assert server.last.body.keys() == {"model", "messages", "max_completion_tokens"}


def test_a_server_without_keys_is_sent_none(server: FakeEngine) -> None:
    engine(server, key=None).complete(CALL, timeout_s=5)

    assert "authorization" not in server.last.headers


def test_a_trailing_slash_in_the_address_does_no_harm(server: FakeEngine) -> None:
    engine(server, base_url=server.base_url + "/").complete(CALL, timeout_s=5)

    assert server.last.path == "/v1/chat/completions"


def test_a_plan_is_held_to_its_schema_strictly(server: FakeEngine) -> None:
    engine(server, source="local").complete(PLAN_CALL, timeout_s=5)

    held_to = server.last.body["response_format"]
    assert held_to["type"] == "json_schema"
    assert held_to["json_schema"] == {"name": "plan", "strict": True, "schema": plan_proposal.schema(["QA-Agent"])}


def test_a_vendors_server_is_not_sent_the_lengths_of_texts(server: FakeEngine) -> None:
    """OpenAI does not support them in strict mode."""
    engine(server, source="api").complete(PLAN_CALL, timeout_s=5)

    sent = server.last.body["response_format"]["json_schema"]["schema"]["properties"]
    assert sent["steps"]["items"]["properties"]["instruction"] == {"type": "string"}
    assert (sent["steps"]["minItems"], sent["steps"]["maxItems"]) == (1, 12)


def test_an_engine_configured_without_schemas_reads_them_in_the_text(server: FakeEngine) -> None:
    engine(server, structured_output="none").complete(PLAN_CALL, timeout_s=5)

    assert len(server.seen) == 1
    assert "response_format" not in server.last.body
    assert server.last.body["messages"][0]["content"].startswith("Be brief.\n\nAnswer with one JSON object")


def test_an_engine_that_takes_json_objects_alone_is_asked_for_one(server: FakeEngine) -> None:
    """The schema is in the prompt. A schema that is not of an object is only there."""
    asked = engine(server, structured_output="json_object")
    asked.complete(PLAN_CALL, timeout_s=5)
    asked.complete(replace(CALL, answer_schema=AnswerSchema(name="answer", schema={"type": "array"})), timeout_s=5)

    with_object, without = server.seen
    assert with_object.body["response_format"] == {"type": "json_object"}
    assert "response_format" not in without.body
    for seen in server.seen:
        assert "It follows this JSON schema" in seen.body["messages"][0]["content"]


def test_what_a_server_takes_is_found_out_step_by_step(server: FakeEngine) -> None:
    """A caller's schema shows nothing about the next one; the server's own schemas do."""
    asked = engine(server)
    callers = replace(CALL, answer_schema=AnswerSchema(name="answer", schema={"type": "object"}))
    server.script(status(400), status(400))
    asked.complete(callers, timeout_s=5)
    known: list[str] = [asked.structured_output]
    for _ in range(2):
        server.script(status(400))
        asked.complete(PLAN_CALL, timeout_s=5)
        known.append(asked.structured_output)
    asked.complete(PLAN_CALL, timeout_s=5)

    assert known == ["json_schema", "json_object", "none"]
    forms = [seen.body.get("response_format", {}).get("type") for seen in server.seen]
    assert forms == ["json_schema", "json_object", None, "json_schema", "json_object", "json_object", None, None]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}, "c"], "ab"),
        ([{"type": "text", "text": None}], ""),
        (7, ""),
    ],
)
def test_content_may_be_a_text_nothing_or_parts(server: FakeEngine, content: Any, text: str) -> None:
    server.script(changed(lambda answer: answer["choices"][0]["message"].update(content=content)))

    assert engine(server).complete(CALL, timeout_s=5).text == text


@pytest.mark.parametrize("usage", ["many", [1], {"prompt_tokens": -1, "completion_tokens": True}, 7])
def test_usage_that_is_nonsense_is_estimated(server: FakeEngine, usage: Any) -> None:
    server.script(changed(lambda answer: answer.update(usage=usage)))

    completion = engine(server).complete(CALL, timeout_s=5)

    assert (completion.usage.tokens_in, completion.usage.output_tokens, completion.usage.estimated) == (4, 7, True)


def test_usage_reported_in_part_is_marked_as_estimated(server: FakeEngine) -> None:
    server.script(changed(lambda answer: answer["usage"].pop("completion_tokens")))

    completion = engine(server).complete(CALL, timeout_s=5)

    assert (completion.usage.tokens_in, completion.usage.output_tokens, completion.usage.estimated) == (11, 7, True)


def test_a_refusal_is_not_taken_for_an_answer(server: FakeEngine) -> None:
    declined = {"content": None, "refusal": "I cannot help with canary."}
    server.script(changed(lambda answer: answer["choices"][0]["message"].update(declined)))
    with pytest.raises(PromptRefused) as caught:
        engine(server).complete(CALL, timeout_s=5)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(429, "busy"), (502, "busy"), (401, "credentials"), ("429", "garbage"), (None, "garbage")],
)
def test_a_failure_a_gateway_reports_under_200_is_a_failure(server: FakeEngine, code: Any, kind: str) -> None:
    server.script(body({"error": {"code": code, "message": "upstream"}}))
    with pytest.raises(EngineUnavailable) as caught:
        engine(server).complete(CALL, timeout_s=5)

    assert caught.value.kind == kind


def test_an_answer_that_ended_in_an_error_is_no_answer(server: FakeEngine) -> None:
    server.script(changed(lambda answer: answer["choices"][0].update(finish_reason="error")))

    with pytest.raises(EngineUnavailable):
        engine(server).complete(CALL, timeout_s=5)


def test_both_calls_for_a_plan_share_one_time_out(server: FakeEngine) -> None:
    """The first call may have used nearly all of it."""

    def no_after_half_the_time(handler: Any) -> None:
        handler.hold(0.4)
        handler.reply(400, {})

    server.script(no_after_half_the_time, silence)
    started_s = time.monotonic()
    with pytest.raises(EngineUnavailable, match="in time"):
        engine(server).complete(PLAN_CALL, timeout_s=0.6)

    assert len(server.seen) == 2
    assert time.monotonic() - started_s < 0.9
