"""Small engines on the real llama.cpp: answers end at their limit, at end marks and at the template's end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from msgspec.structs import replace

from llm_server.engines.connections import EnginePool
from llm_server.engines.local.llamacpp import LlamaCppEngine
from llm_server.engines.local.model_files import ModelFile
from llm_server.engines.openai import OpenAIEngine
from llm_server.orchestration.domain.engines.call import AnswerSchema, Engine, EngineCall
from llm_server.orchestration.domain.engines.catalog import END_MARKS, EngineSpec
from llm_server.orchestration.domain.engines.message import user
from llm_server.orchestration.execution import plan_proposal, review
from support import tiny_gguf
from support.llamacpp_server import LlamaServer
from support.server_process import RunningServer, serving

CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=200, temperature=0.6)
ROLES = ["Fast-Coder-Agent", "QA-Agent", "Writing-Agent"]
SCHEMAS = {"plan": plan_proposal.schema(ROLES), "verdict": review.schema()}
LIMIT = 40


def an_engine(server: LlamaServer, **fields: Any) -> Engine:
    spec = EngineSpec(kind="openai", source="local", model=server.model, base_url=server.base_url, **fields)
    return OpenAIEngine(spec, EnginePool(), lambda: server.api_key)


def test_llama_cpp_stops_at_the_configured_texts(llamacpp_server: LlamaServer) -> None:
    """The text and its end are not in the answer, and the answer does not count as cut off."""
    whole = an_engine(llamacpp_server).complete(CALL, timeout_s=20).text
    stop = whole[10:12]

    ended = an_engine(llamacpp_server, stop=(stop,)).complete(CALL, timeout_s=20)

    assert ended.text == whole.partition(stop)[0]
    assert ended.usage.output_tokens <= len(whole.partition(stop)[0]) + 3
    assert not ended.truncated


def test_llama_cpp_obeys_the_penalty(llamacpp_server: LlamaServer) -> None:
    """The tiny model repeats one letter, and the penalty makes it rarer."""
    shares = []
    for penalty in (1.0, 2.0):
        text = an_engine(llamacpp_server, repeat_penalty=penalty).complete(CALL, timeout_s=20).text
        shares.append(max(Counter(text).values()) / len(text))

    assert shares[1] < shares[0] / 2


@pytest.mark.parametrize(
    ("mark", "end_is_named"), [("</s>", True), *((mark, named) for mark in END_MARKS for named in (True, False))]
)
def test_a_turn_ends_at_the_end_of_its_template(tmp_path: Path, mark: str, end_is_named: bool) -> None:
    """llama.cpp knows the marks even if the file names another token as its end, but not `</s>`."""
    tiny_gguf.write(tmp_path / "tiny.gguf", end_mark=mark, end_is_named=end_is_named)
    spec = EngineSpec(kind="llamacpp", source="local", model="tiny", max_concurrency=1, stop=())
    engine = LlamaCppEngine(spec, ModelFile(tmp_path / "tiny.gguf", 4096, "", ()), EnginePool())
    call = replace(CALL, max_output_tokens=3_000, temperature=1.0)

    answers = [engine.complete(replace(call, messages=user(f"Hello {n}?")), timeout_s=30) for n in range(3)]
    engine.close()

    assert not any(answer.truncated for answer in answers)
    assert not any(mark in answer.text for answer in answers)


@pytest.mark.parametrize(
    ("fields", "stop", "penalty"),
    [
        ({}, END_MARKS, 1.1),
        ({"small": False}, (), None),
        ({"stop": ("END",), "repeat_penalty": 1.3}, ("END",), 1.3),
    ],
    ids=["small", "not small", "own values"],
)
def test_a_model_in_the_process_is_asked_as_configured(
    tmp_path: Path, fields: dict[str, Any], stop: tuple[str, ...], penalty: float | None
) -> None:
    """The configuration reaches the adapter that calls llama.cpp's server."""
    tiny_gguf.write(tmp_path / "tiny.gguf")
    spec = EngineSpec(kind="llamacpp", source="local", model="tiny", max_concurrency=1, **fields)
    engine = LlamaCppEngine(spec, ModelFile(tmp_path / "tiny.gguf", 512, "", ()), EnginePool())
    engine.complete(replace(CALL, max_output_tokens=2), timeout_s=30)
    asked = engine._started()._spec
    engine.close()

    assert (asked.stop_texts, asked.repetition_penalty) == (stop, penalty)


@pytest.mark.parametrize("name", SCHEMAS)
def test_llama_cpp_obeys_the_whole_schema(llamacpp_server: LlamaServer, name: Any) -> None:
    """Nothing is left out of it, and its limits are not too large for a grammar. The weights are random."""
    schema = SCHEMAS[name]
    call = replace(CALL, answer_schema=AnswerSchema(name=name, schema=schema), max_output_tokens=3_900, temperature=1.0)
    engine = an_engine(llamacpp_server, small=True)

    answers = [engine.complete(replace(call, messages=user(f"Do {n}.")), timeout_s=120) for n in range(3)]

    whole = [json.loads(answer.text) for answer in answers if not answer.truncated]
    assert whole
    assert all(jsonschema_rs.is_valid(schema, answer) for answer in whole)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve with the same file as a small engine and as one that is not."""
    folder = tmp_path_factory.mktemp("small")
    tiny_gguf.write(folder / "tiny.gguf", end_mark="<|never|>", end_is_named=False)  # its turns do not end
    engines = [
        f'[engines.{name}]\nkind = "llamacpp"\nsource = "local"\nmodel = "{folder}/tiny.gguf"\ncontext = 1024\n{more}\n'
        for name, more in (("small", ""), ("large", "small = false"))
    ]
    defaults = f"[defaults]\nsmall_max_output_tokens = {LIMIT}\nmax_output_tokens = 90\n"
    (folder / "engines.toml").write_text("\n".join([defaults, *engines]))
    with serving(folder / "tasks.db", env={"LLM_SERVER_CONFIG": str(folder / "engines.toml")}) as running:
        yield running


def attempt(server: RunningServer, **asked: Any) -> Any:
    answer = server.submit("Say hello.", wait_s=25, mode="Chat", **asked)
    assert answer["status"] == "Completed"
    return server.call("GET", f"/tasks/{answer['task_id']}").json()["attempts"][0]


def test_a_small_engine_stops_at_its_limit(server: RunningServer) -> None:
    """Its model would run on. The same model, not marked as small, gets the usual limit."""
    small, large = attempt(server, engine="small"), attempt(server, engine="large")

    assert (small["tokens_out"], small["truncated"]) == (LIMIT, True)
    assert (large["tokens_out"], large["truncated"]) == (90, True)


def test_the_callers_limit_is_honoured_by_a_small_engine(server: RunningServer) -> None:
    for limit in (10, 70):
        assert attempt(server, engine="small", limits={"max_output_tokens": limit})["tokens_out"] == limit


def test_a_small_engine_reads_a_shorter_prompt(server: RunningServer) -> None:
    """A token of this model is a byte: the short prompt of Chat-Agent saves more than 500 of them."""
    small, large = (
        attempt(server, engine="small", role="Chat-Agent"),
        attempt(server, engine="large", role="Chat-Agent"),
    )

    assert small["tokens_in"] + 500 < large["tokens_in"]
