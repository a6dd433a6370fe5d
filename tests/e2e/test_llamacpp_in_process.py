"""A model in the server's process: the real llama.cpp, loaded from a path or by the name of a pulled model."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from msgspec.structs import replace

from llm_server.engines.connections import EnginePool
from llm_server.engines.local.llamacpp import LlamaCppEngine
from llm_server.engines.local.model_files import ModelFile
from llm_server.orchestration.domain.engines.call import AnswerSchema, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import Message, user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.execution import plan_proposal
from support import tiny_gguf
from support.llamacpp_server import plan_schema
from support.model_server import model_server
from support.server_process import refused, serving

CALL = EngineCall(system="Be brief.", messages=user("Hello?"), max_output_tokens=24)
SHORT = {"max_output_tokens": 32}
CANARY = "canary-8841"
ROLES = ["Fast-Coder-Agent", "Writing-Agent"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_gguf.write(path)
    return path


@pytest.fixture(scope="module")
def engine(gguf: Path) -> Iterator[LlamaCppEngine]:
    engine = an_engine(gguf)
    yield engine
    engine.close()


def an_engine(path: Path, **changes: Any) -> LlamaCppEngine:
    settings: dict[str, Any] = {"kind": "llamacpp", "source": "local", "model": "tiny", "max_concurrency": 1} | changes
    return LlamaCppEngine(EngineSpec(**settings), ModelFile(path, 2048, "", ()), EnginePool())


def address(engine: LlamaCppEngine) -> str:
    [server] = engine._servers
    return str(server.listening_address)


def test_a_model_answers_and_reports_its_tokens(engine: LlamaCppEngine) -> None:
    completion = engine.complete(CALL, timeout_s=20)

    assert completion.text
    assert 0 < completion.usage.output_tokens <= 24
    assert completion.usage.tokens_in > 10
    assert not completion.usage.estimated


def test_an_answer_cut_by_the_limit_is_marked(engine: LlamaCppEngine) -> None:
    assert engine.complete(replace(CALL, max_output_tokens=2), timeout_s=20).truncated


def test_the_context_is_the_models_unless_it_is_configured(engine: LlamaCppEngine, gguf: Path) -> None:
    """Each of several concurrent calls has the whole context."""
    long = replace(CALL, messages=user("word " * 4000))
    with pytest.raises(PromptRefused, match="2048 tokens"):
        engine.complete(long, timeout_s=20)

    smaller = an_engine(gguf, context=512, max_concurrency=2)
    with pytest.raises(PromptRefused, match="512 tokens"):
        smaller.complete(long, timeout_s=20)
    smaller.close()


def test_a_model_constrained_by_the_schema_writes_a_plan(engine: LlamaCppEngine) -> None:
    """The weights are random, so only the schema makes the text a plan."""
    held_to = AnswerSchema(name="plan", schema=plan_schema(ROLES))
    call = replace(CALL, max_output_tokens=400, answer_schema=held_to)

    assert plan_proposal.parse(engine.complete(call, timeout_s=20).text, ROLES).steps[0].role in ROLES


def test_other_users_of_the_machine_cannot_use_the_model(engine: LlamaCppEngine) -> None:
    """Other users' processes can reach the port but do not have the key; past prompts are not shown."""
    engine.complete(CALL, timeout_s=20)

    for path in ("/v1/models", "/slots", "/props", "/metrics"):
        assert urllib3.request("GET", address(engine) + path, retries=False).status in (401, 404)
    assert address(engine).startswith("http://127.0.0.1:")


def test_a_closed_engine_frees_its_port_and_starts_again_when_called(gguf: Path) -> None:
    engine = an_engine(gguf)
    assert not engine._servers
    engine.complete(CALL, timeout_s=20)
    before = address(engine)
    engine.close()

    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", f"{before}/health", retries=False)
    assert engine.complete(CALL, timeout_s=20).text
    engine.close()


def test_an_engine_without_references_stops_its_server(gguf: Path) -> None:
    engine = an_engine(gguf)
    engine.complete(CALL, timeout_s=20)
    before = address(engine)
    del engine
    gc.collect()

    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", f"{before}/health", retries=False)


@pytest.mark.parametrize("kept", [4, 4096, 200_000])
def test_a_broken_model_file_makes_the_engine_unavailable(gguf: Path, tmp_path: Path, kept: int) -> None:
    """llama.cpp refuses it without ending the process."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(EngineUnavailable) as caught:
        an_engine(broken).complete(CALL, timeout_s=20)

    assert caught.value.kind == "unreachable"


def test_a_model_named_by_the_setting_answers(tmp_path: Path, gguf: Path) -> None:
    """On a machine without keys. Concurrent tasks wait for the only place, and no prompt is printed."""
    with serving(tmp_path / "tasks.db", env={"LLM_SERVER_MODEL": str(gguf)}) as server:
        ids = [server.submit(f"Say hello, {CANARY}.", mode="Chat", limits=SHORT)["task_id"] for _ in range(6)]
        tasks = [server.finished(task_id) for task_id in ids]
        metrics = server.call("GET", "/metrics").json()
        code = server.stop()
        logged = server.log.read_text()

    assert f"llamacpp: LLM_SERVER_MODEL is set, so {gguf} answers in this process." in server.printed
    assert [task["status"] for task in tasks] == ["Completed"] * 6
    [attempt] = tasks[0]["attempts"]
    assert (attempt["engine"], attempt["source"], attempt["cost_microusd"]) == ("llamacpp", "local", 0)
    assert 0 < attempt["tokens_out"] <= 32
    assert not attempt["usage_estimated"]
    assert metrics["llm_status"] == {"llamacpp": "online"}
    assert metrics["api_costs"] == 0
    assert code == 0
    assert CANARY not in logged + server.printed


def test_a_pulled_model_is_configured_by_its_name(tmp_path: Path, gguf: Path) -> None:
    """Before the pull the start fails, says what to do, and downloads nothing."""
    with model_server(gguf.read_bytes()) as models:
        env = an_environment(tmp_path, models.model())
        code, said = refused(tmp_path / "tasks.db", env=env)
        asked_before = list(models.asked)
        pull = [sys.executable, "-m", "llm_server", "models", "pull", "tiny"]
        subprocess.run(pull, env={**os.environ, **env}, check=True, capture_output=True, timeout=60)
        with serving(tmp_path / "tasks.db", env=env) as server:
            answer = server.submit("Say hello.", wait_s=25, mode="Chat", limits=SHORT)

    assert code == 1
    assert "engines.laptop.model is 'tiny', which was not pulled yet; run `llm-server models pull tiny`" in said
    assert "Traceback" not in said
    assert not asked_before
    assert models.asked == [""]
    assert "laptop (configured in" in server.printed
    assert answer["status"] == "Completed"


def an_environment(folder: Path, model: Any) -> dict[str, str]:
    config = folder / "engines.toml"
    config.write_text(
        f'[engines.laptop]\nkind = "llamacpp"\nsource = "local"\nmodel = "tiny"\n\n[models.tiny]\nurl = "{model.url}"\n'
        f'sha256 = "{model.sha256}"\nsize_bytes = {model.size_bytes}\nlicence = "MIT"\ncontext = 2048\n'
    )
    return {"LLM_SERVER_CONFIG": str(config), "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "none.gguf",
            "LLM_SERVER_MODEL is 'none.gguf'; allowed is a GGUF file that can be read, or one of smollm2-135m, qwen",
        ),
        ("qwen2.5-0.5b", "LLM_SERVER_MODEL is 'qwen2.5-0.5b', which was not pulled yet"),
    ],
)
def test_a_missing_model_stops_the_start(tmp_path: Path, model: str, reason: str) -> None:
    env = {"LLM_SERVER_MODEL": model, "XDG_CACHE_HOME": str(tmp_path)}
    code, said = refused(tmp_path / "tasks.db", env=env)

    assert code == 1
    assert reason in said
    assert "Traceback" not in said


def test_an_api_key_takes_precedence_over_the_model_and_the_server_says_so(tmp_path: Path, gguf: Path) -> None:
    env = {"LLM_SERVER_MODEL": str(gguf), "OPENAI_API_KEY": "k"}
    with serving(tmp_path / "tasks.db", env=env) as server:
        pass

    assert "openai: OPENAI_API_KEY is set" in server.printed
    assert "LLM_SERVER_MODEL is not used." in server.printed


def test_an_answer_is_streamed_as_it_is_written(engine: LlamaCppEngine) -> None:
    """The pieces are the text, the tokens those that the model counted, and the whole conversation is read."""
    whole = engine.complete(replace(CALL, temperature=0.0), timeout_s=20)
    pieces = list[str]()

    streamed = engine.complete(replace(CALL, temperature=0.0, on_text=pieces.append), timeout_s=20)

    assert "".join(pieces) == streamed.text == whole.text
    assert len(pieces) > 1
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert not streamed.usage.estimated

    talk = (*CALL.messages, Message(role="assistant", text="Hello " * 20), *user("And now?"))
    longer = engine.complete(replace(CALL, messages=talk), timeout_s=20)
    assert longer.usage.tokens_in > whole.usage.tokens_in + 20
