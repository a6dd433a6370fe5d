"""The whole path with a real LLM server behind it: llama.cpp on loopback, configured as a user would."""

from __future__ import annotations

from pathlib import Path

from llamacpp import LlamaServer
from running_server import serving

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


def test_a_wrong_key_takes_the_engine_out_and_the_task_waits(tmp_path: Path, llamacpp_server: LlamaServer) -> None:
    """The embedded engine does not stand in for a configured one, and nothing is Failed yet."""
    with serving(tmp_path / "tasks.db", env=an_environment(tmp_path, llamacpp_server, "wrong")) as server:
        answer = server.submit("Say hello.", wait_s=2)
        task = server.call("GET", f"/tasks/{answer['task_id']}").json()
        metrics = server.call("GET", "/metrics").json()

    assert task["status"] == "Queued"
    assert task["attempts"][0]["error"]
    assert "wrong" not in str(task)
    assert (metrics["server_status"], metrics["llm_status"]) == ("offline", {"laptop": "offline"})
