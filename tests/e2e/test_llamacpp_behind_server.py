"""The whole path with a real LLM server: llama.cpp on loopback, configured as users would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.llamacpp_server import CONTEXT, LlamaServer
from support.server_process import RunningServer, serving

KINDS = ("openai", "anthropic")
BOTH = """
[engines.{kind}]
kind = "{kind}"
source = "local"
model = "{model}"
base_url = "{base_url}"
api_key = "env:GOOD_KEY"

[engines.{kind}-plans]
kind = "{kind}"
source = "local"
model = "{model}"
base_url = "{planning_url}"
api_key = "env:GOOD_KEY"
structured_output = "none"

[engines.{kind}-locked-out]
kind = "{kind}"
source = "local"
model = "{model}"
base_url = "{base_url}"
api_key = "env:WRONG_KEY"
"""

CONFIG = """
[engines.laptop]
kind = "openai"
source = "local"
model = "{model}"
base_url = "{base_url}"
api_key = "env:LAPTOP_KEY"
"""


def an_environment(directory: Path, llama: LlamaServer, key: str) -> dict[str, str]:
    path = directory / "engines.toml"
    path.write_text(CONFIG.format(model=llama.model, base_url=llama.base_url))
    return {"LLM_SERVER_CONFIG": str(path), "LAPTOP_KEY": key}


@pytest.fixture(scope="module")
def server(
    llamacpp_server: LlamaServer, planning_server: LlamaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """One server with engines of both kinds: with a valid key, with a wrong key, and with a model that writes plans."""
    folder = tmp_path_factory.mktemp("both")
    config = folder / "engines.toml"
    config.write_text("".join(_tables(kind, llamacpp_server, planning_server) for kind in KINDS))
    keys = {"GOOD_KEY": llamacpp_server.api_key, "WRONG_KEY": "sk-wrong-7741"}
    with serving(folder / "tasks.db", env={"LLM_SERVER_CONFIG": str(config), **keys}) as server:
        yield server


def _tables(kind: str, answering: LlamaServer, planning: LlamaServer) -> str:
    first, second = ((s.base_url if kind == "openai" else s.url) for s in (answering, planning))
    return BOTH.format(kind=kind, model=answering.model, base_url=first, planning_url=second)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_both_kinds_of_engines_answer_a_chat(server: RunningServer, kind: str) -> None:
    answer = server.submit("Say hello.", wait_s=20, mode="Chat", engine=kind, limits={"max_output_tokens": 32})
    [attempt] = server.call("GET", f"/tasks/{answer['task_id']}").json()["attempts"]

    assert (answer["status"], answer["error"]) == ("Completed", None)
    assert answer["result"]
    assert 0 < attempt["tokens_out"] <= 32
    assert not attempt["usage_estimated"]


def test_both_kinds_of_engines_make_and_execute_a_plan(server: RunningServer, kind: str) -> None:
    """From the planner's prompt to the synthesis, every answer is the model's."""
    submitted = server.submit("Write a poem, then judge it.", mode="Plan", engine=f"{kind}-plans")
    task = server.finished(submitted["task_id"])

    assert (task["status"], task["error"], task["mode"]) == ("Completed", None, "Plan")
    assert task["result"]
    steps = {step["id"]: step for step in task["plan"]["steps"]}
    assert {name: step["depends_on"] for name, step in steps.items()} == {"s1": [], "s2": ["s1"]}
    assert {step["status"] for step in steps.values()} == {"Completed"}
    assert [attempt["purpose"] for attempt in task["attempts"]] == ["plan", "step s1", "step s2", "synthesis"]
    assert task["receipt"]["calls"] == 4
    assert all(attempt["tokens_out"] > 0 and not attempt["usage_estimated"] for attempt in task["attempts"])


def test_an_endless_plan_falls_back_to_agent_mode(server: RunningServer) -> None:
    """The repair prompt with the unfinished plan exceeds the context, so the task is answered in Agent mode."""
    submitted = server.submit("Plan it.", mode="Plan", engine="openai", limits={"max_output_tokens": 3_000})
    task = server.finished(submitted["task_id"])

    assert (task["status"], task["mode"]) == ("Completed", "Agent")
    assert [attempt["purpose"] for attempt in task["attempts"]] == ["plan", "plan", "answer"]
    assert "context size" in task["attempts"][1]["error"]


def test_a_prompt_longer_than_the_context_fails_and_the_engine_stays_online(server: RunningServer, kind: str) -> None:
    answer = server.submit("word " * CONTEXT, wait_s=20, mode="Chat", engine=kind)
    task = server.call("GET", f"/tasks/{answer['task_id']}").json()

    assert answer["status"] == "Failed"
    assert f"available context size ({CONTEXT} tokens)" in answer["error"]
    assert len(task["attempts"]) == 1
    assert server.call("GET", "/metrics").json()["llm_status"][kind] == "online"


def test_a_wrong_key_puts_only_that_engine_offline(server: RunningServer, kind: str) -> None:
    submitted = server.submit("Say hello.", wait_s=1, engine=f"{kind}-locked-out")
    task = server.call("GET", f"/tasks/{submitted['task_id']}").json()
    metrics = server.call("GET", "/metrics").json()

    assert (task["status"], task["waiting_for"]) == ("Queued", f"{kind}-locked-out")
    assert task["attempts"][0]["error"] == "The engine refused our credentials (HTTP 401)."
    assert (metrics["server_status"], metrics["llm_status"][f"{kind}-locked-out"]) == ("online", "offline")
    assert metrics["llm_status"][kind] == "online"
    assert "sk-wrong-7741" not in str(task) + server.log.read_text()


def test_a_configured_llama_cpp_answers(tmp_path: Path, llamacpp_server: LlamaServer) -> None:
    env = an_environment(tmp_path, llamacpp_server, llamacpp_server.api_key)
    with serving(tmp_path / "tasks.db", env=env) as server:
        answer = server.submit("Say hello.", wait_s=25, limits={"max_output_tokens": 32})
        task = server.call("GET", f"/tasks/{answer['task_id']}").json()
        metrics = server.call("GET", "/metrics").json()

    assert "laptop (configured in" in server.printed
    assert (answer["status"], answer["error"]) == ("Completed", None)
    assert answer["result"]
    [attempt] = task["attempts"]
    assert (attempt["engine"], attempt["model"], attempt["error"]) == ("laptop", llamacpp_server.model, None)
    assert 0 < attempt["tokens_out"] <= 32
    assert not attempt["usage_estimated"]
    assert metrics["llm_status"] == {"laptop": "online"}
    assert metrics["tokens_per_second"] > 0


def test_a_task_waits_while_the_only_engine_has_a_wrong_key(tmp_path: Path, llamacpp_server: LlamaServer) -> None:
    """The embedded engine does not replace a configured one, and the task is not Failed yet."""
    with serving(tmp_path / "tasks.db", env=an_environment(tmp_path, llamacpp_server, "wrong")) as server:
        answer = server.submit("Say hello.", wait_s=2)
        task = server.call("GET", f"/tasks/{answer['task_id']}").json()
        metrics = server.call("GET", "/metrics").json()

    assert task["status"] == "Queued"
    assert task["attempts"][0]["error"]
    assert "wrong" not in str(task)
    assert (metrics["server_status"], metrics["llm_status"]) == ("offline", {"laptop": "offline"})
