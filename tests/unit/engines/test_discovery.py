"""The engine that is found if none is configured."""

import time
from collections.abc import Iterator

import pytest

from llm_server.engines.connections import EnginePool
from llm_server.engines.discovery import LOOPBACK_SERVERS, LoopbackServer, discover
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import user
from support.fake_engine import FakeEngine, body, fake_engine, silence, status


@pytest.fixture
def server() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


def at(server: FakeEngine, name: str = "ollama") -> LoopbackServer:
    return LoopbackServer(name, name.title(), int(server.url.rpartition(":")[2]))


def test_an_openai_key_goes_before_everything(server: FakeEngine) -> None:
    found = discover({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, loopback=[at(server)])

    assert (found.name, found.spec.kind, found.spec.source) == ("openai", "openai", "api")
    assert found.spec.api_key == "env:OPENAI_API_KEY"
    assert found.spec.max_tokens_field == "max_completion_tokens"
    assert not found.spec.send_temperature
    assert not server.seen


def test_an_anthropic_key_goes_before_a_server_on_loopback(server: FakeEngine) -> None:
    found = discover({"OPENAI_API_KEY": " ", "ANTHROPIC_API_KEY": "k"}, loopback=[at(server)])

    assert (found.name, found.spec.kind) == ("anthropic", "anthropic")
    assert not server.seen


def test_a_server_on_loopback_answers_with_its_first_model_for_chat(server: FakeEngine) -> None:
    server.models = ("nomic-embed-text:latest", "bge-reranker-v2", "whisper-large", "llama3.2:3b", "qwen3:8b")
    found = discover({}, loopback=[at(server)])
    call = EngineCall(system="", messages=user("Hello?"), max_output_tokens=50)

    assert (found.name, found.spec.model, found.spec.source) == ("ollama", "llama3.2:3b", "local")
    assert OpenAIEngine(found.spec, EnginePool(), lambda: None).complete(call, timeout_s=5).text == server.text


@pytest.mark.parametrize(
    ("model", "is_small"),
    [
        ("llama3.2:3b", True),
        ("qwen2.5:0.5b-instruct-q4_K_M", True),
        ("smollm2:135m", True),
        ("google/gemma-3-4b", True),
        ("/models/Qwen3-1.7B-Q8_0.gguf", True),
        ("qwen2.5-3b-instruct-1m", True),
        ("qwen3:8b", False),
        ("qwen3:30b-a3b", False),
        ("mixtral:8x7b", False),
        ("qwen2.5-14b-instruct-1m", False),
        ("llama3.2:latest", False),
        ("gemma3n:e2b", False),
    ],
)
def test_a_model_whose_name_says_that_it_is_small_is_a_small_engine(
    server: FakeEngine, model: str, is_small: bool
) -> None:
    """It would run on to 4,096 tokens, which takes minutes on a laptop. Without a size in its name it stays large."""
    server.models = (model,)

    assert discover({}, loopback=[at(server)]).spec.is_small is is_small


@pytest.mark.parametrize(
    ("name", "meta", "is_small"),
    [
        ("mine", {"n_params": 1_235_814_432}, True),
        ("mine-70b", {"n_params": 4_022_468_096}, True),
        ("mine-1b", {"n_params": 8_030_261_248}, False),
        ("mine-1b", {"n_params": "8"}, True),
        ("mine", None, False),
    ],
)
def test_the_number_of_parameters_that_the_server_tells_goes_before_the_name(
    server: FakeEngine, name: str, meta: object, is_small: bool
) -> None:
    """llama.cpp tells it; its models may have any name."""
    server.script(body({"data": [{"id": name, "meta": meta}]}))

    assert discover({}, loopback=[at(server)]).spec.is_small is is_small


def test_servers_are_asked_in_their_order(server: FakeEngine) -> None:
    with fake_engine(models=("second",)) as other:
        assert discover({}, loopback=[at(other, "lm-studio"), at(server)]).spec.model == "second"


@pytest.mark.parametrize(
    "fault",
    [
        status(401),
        status(404, {"detail": "Not Found"}),
        body(b"<html>some other program</html>", "text/html"),
        body({"data": []}),
        body({"data": "models"}),
        body({"data": [{"id": None}, {"id": "text-embedding-3-small"}, 7]}),
        body(b"[" * 50_000),
    ],
)
def test_a_server_without_a_model_for_chat_is_passed_over(server: FakeEngine, fault: object) -> None:
    server.script(fault)  # type: ignore[arg-type]

    assert discover({}, loopback=[at(server)]).name == "embedded"


def test_a_server_that_does_not_answer_costs_a_third_of_a_second(server: FakeEngine) -> None:
    server.script(silence)
    started_s = time.monotonic()

    assert discover({}, loopback=[at(server)]).name == "embedded"
    assert time.monotonic() - started_s < 0.6


def test_the_port_we_serve_on_ourselves_is_not_asked(server: FakeEngine) -> None:
    """A request to this server while it starts would hang, or find the server itself."""
    found = discover({}, loopback=[at(server)], own_port=at(server).port)

    assert found.name == "embedded"
    assert not server.seen


def test_nothing_found_is_the_embedded_engine_and_says_where_was_looked() -> None:
    found = discover({}, loopback=[])

    assert (found.name, found.spec.kind, found.spec.source) == ("embedded", "embedded", "local")
    assert found.reason == "No LLM was found (OPENAI_API_KEY, ANTHROPIC_API_KEY), so the embedded engine answers."


def test_a_model_named_by_setting_answers_when_no_server_is_there(server: FakeEngine) -> None:
    """It comes after keys and servers, and before the embedded engine."""
    assert discover({}, loopback=[at(server)], model="m.gguf").name == "ollama"
    assert discover({"ANTHROPIC_API_KEY": "k"}, loopback=[], model="m.gguf").name == "anthropic"

    server.models = ()
    found = discover({}, loopback=[at(server)], model="m.gguf")

    assert (found.name, found.spec.kind, found.spec.source, found.spec.model) == (
        "llamacpp",
        "llamacpp",
        "local",
        "m.gguf",
    )
    assert found.spec.max_concurrency == 1
    assert found.reason == "LLM_SERVER_MODEL is set, so m.gguf answers in this process."


def test_the_ports_are_those_the_servers_have_unless_told_otherwise() -> None:
    assert [(s.name, s.port) for s in LOOPBACK_SERVERS] == [
        ("ollama", 11434),
        ("lm-studio", 1234),
        ("llama-cpp", 8080),
        ("vllm", 8000),
    ]


@pytest.mark.parametrize(
    ("model", "chats"),
    [
        ("qwen2.5-coder-7b-instruct", True),
        ("claude-style-writer", True),
        ("gemma-3-4b-it", True),
        ("text-embedding-nomic-embed-text-v1.5", False),
        ("BAAI/bge-m3", False),
        ("intfloat/e5-large", False),
        ("thenlper/gte-small", False),
        ("all-minilm:33m", False),
        ("models/tiny-random.gguf", True),
    ],
)
def test_models_made_for_other_things_are_told_by_their_names(server: FakeEngine, model: str, chats: bool) -> None:
    server.models = (model,)

    assert (discover({}, loopback=[at(server)]).spec.model == model) is chats
