"""The parts of the Messages API that differ from other APIs."""

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.connections import EnginePool
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.execution import plan_proposal
from support.fake_engine import FakeEngine, changed, fake_engine

CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=50, temperature=1.4)


@pytest.fixture
def server() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


def engine(server: FakeEngine, **changes: Any) -> AnthropicEngine:
    settings = {"kind": "anthropic", "source": "api", "model": "m-1", "base_url": server.url} | changes
    return AnthropicEngine(EngineSpec(**settings), EnginePool(), lambda: "k")


def test_a_prompt_is_sent_as_the_api_wants_it(server: FakeEngine) -> None:
    """The highest temperature of this API is 1."""
    engine(server).complete(CALL, timeout_s=5)

    assert server.last.path == "/v1/messages"
    assert server.last.headers["x-api-key"] == "k"
    assert server.last.headers["anthropic-version"] == "2023-06-01"
    assert server.last.body == {
        "model": "m-1",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "Hello?"}],
        "system": "Be brief.",
        "temperature": 1.0,
    }


def test_models_that_refuse_a_temperature_get_none(server: FakeEngine) -> None:
    engine(server, send_temperature=False).complete(replace(CALL, system=""), timeout_s=5)

    assert server.last.body.keys() == {"model", "max_tokens", "messages"}


def test_a_schema_is_sent_without_the_bounds_the_api_refuses(server: FakeEngine) -> None:
    schema = plan_proposal.schema(["QA-Agent"])
    call = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=schema))
    engine(server).complete(call, timeout_s=5)

    sent = server.last.body["output_config"]["format"]
    assert sent["type"] == "json_schema"
    steps = sent["schema"]["properties"]["steps"]
    assert steps.keys() == {"type", "items"}
    assert steps["items"]["properties"]["instruction"] == {"type": "string"}
    assert steps["items"]["required"] == schema["properties"]["steps"]["items"]["required"]
    assert "maxItems" in schema["properties"]["steps"]


def test_thinking_is_no_part_of_the_answer(server: FakeEngine) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "text": "hm"},
        {"type": "text", "text": "Yes"},
        {"type": "text"},
    ]
    server.script(changed(lambda answer: answer.update(content=blocks)))

    assert engine(server).complete(CALL, timeout_s=5).text == "Yes"


def test_tokens_read_from_a_cache_count_as_tokens_in(server: FakeEngine) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": None}
    server.script(changed(lambda answer: answer["usage"].update(usage)))

    assert engine(server).complete(CALL, timeout_s=5).usage.tokens_in == 23


def test_an_answer_that_filled_the_context_is_truncated(server: FakeEngine) -> None:
    server.script(changed(lambda answer: answer.update(stop_reason="model_context_window_exceeded")))

    assert engine(server).complete(CALL, timeout_s=5).truncated
