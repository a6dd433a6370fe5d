"""The adapters against llama.cpp, an independent server for Chat Completions and Messages."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.connections import EnginePool
from llm_server.engines.discovery import LoopbackServer, discover
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.engines.call import AnswerSchema, Engine, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.execution import plan_proposal
from support.llamacpp_server import CONTEXT, LlamaServer, plan_schema

ROLES = ["Fast-Coder-Agent", "Writing-Agent"]
CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=24)


@pytest.fixture(params=["openai", "anthropic"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine(wire: str, server: LlamaServer, api_key: str | None = None, **changes: Any) -> Engine:
    key = api_key or server.api_key
    settings: dict[str, Any] = {"kind": wire, "source": "local", "model": server.model} | changes
    if wire == "openai":
        return OpenAIEngine(EngineSpec(base_url=server.base_url, **settings), EnginePool(), lambda: key)
    return AnthropicEngine(EngineSpec(base_url=server.url, **settings), EnginePool(), lambda: key)


def test_a_real_server_answers_and_reports_its_tokens(wire: str, llamacpp_server: LlamaServer) -> None:
    completion = engine(wire, llamacpp_server).complete(CALL, timeout_s=20)

    assert completion.text
    assert 0 < completion.usage.output_tokens <= 24
    assert completion.usage.tokens_in > 10
    assert not completion.usage.estimated


def test_a_real_answer_cut_by_the_limit_is_marked(wire: str, llamacpp_server: LlamaServer) -> None:
    short = replace(CALL, max_output_tokens=2)

    assert engine(wire, llamacpp_server).complete(short, timeout_s=20).truncated


def test_a_prompt_longer_than_the_context_is_refused(wire: str, llamacpp_server: LlamaServer) -> None:
    """Other engines of this size would refuse it too; the error tells the caller the size."""
    long = replace(CALL, messages=user("word " * CONTEXT))
    with pytest.raises(PromptRefused, match="exceeds the available context size") as caught:
        engine(wire, llamacpp_server).complete(long, timeout_s=20)

    assert f"{CONTEXT} tokens" in str(caught.value)


def test_a_wrong_key_is_reported_as_a_credentials_failure(wire: str, llamacpp_server: LlamaServer) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        engine(wire, llamacpp_server, "sk-wrong").complete(CALL, timeout_s=20)

    assert caught.value.kind == "credentials"
    assert "sk-wrong" not in str(caught.value)


def test_a_model_constrained_by_the_schema_writes_a_valid_plan(llamacpp_server: LlamaServer) -> None:
    """The weights are random, so only the schema makes the text a plan."""
    held_to = AnswerSchema(name="plan", schema=plan_schema(ROLES))
    call = replace(CALL, max_output_tokens=400, answer_schema=held_to)
    completion = engine("openai", llamacpp_server).complete(call, timeout_s=20)

    assert not completion.truncated
    assert plan_proposal.parse(completion.text, ROLES).steps[0].role in ROLES


def test_the_messages_api_of_llama_cpp_accepts_the_schema_and_ignores_it(llamacpp_server: LlamaServer) -> None:
    """It reports no error, so such an engine must be configured with `structured_output = "none"` (docs/engines.md)."""
    held_to = AnswerSchema(name="plan", schema=plan_schema(ROLES))
    call = replace(CALL, max_output_tokens=400, answer_schema=held_to)
    completion = engine("anthropic", llamacpp_server).complete(call, timeout_s=20)

    with pytest.raises(plan_proposal.PlanInvalid):
        plan_proposal.parse(completion.text, ROLES)


def test_a_schema_in_the_prompt_gives_a_plan_with_both_apis(wire: str, planning_server: LlamaServer) -> None:
    """This server constrains its answers itself, so the request needs no schema field."""
    held_to = AnswerSchema(name="plan", schema=plan_schema(ROLES))
    call = replace(CALL, max_output_tokens=400, answer_schema=held_to)
    completion = engine(wire, planning_server, structured_output="none").complete(call, timeout_s=20)

    assert [step.depends_on for step in plan_proposal.parse(completion.text, ROLES).steps] == [(), ("s1",)]
    assert completion.usage.tokens_in > len(json.dumps(held_to.schema, separators=(",", ":")))  # a token is a byte


def test_concurrent_calls_are_all_answered(wire: str, llamacpp_server: LlamaServer) -> None:
    shared = engine(wire, llamacpp_server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.complete(CALL, timeout_s=30), range(16)))

    assert all(answer.text for answer in answers)


def test_a_server_that_requires_a_key_is_not_discovered(llamacpp_server: LlamaServer) -> None:
    port = int(llamacpp_server.url.rpartition(":")[2])
    found = discover({}, loopback=[LoopbackServer("llama-cpp", "llama.cpp", port)])

    assert found.name == "embedded"
