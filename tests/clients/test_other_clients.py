"""Clients of other projects that speak OpenAI's dialect, or read event streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from aws_local.environments import tool
from clients.conftest import output, run
from clients.test_openai_libraries import ANIMAL, echo
from support.fake_engine import FakeEngine
from support.server_process import RunningServer

pytestmark = pytest.mark.clients


def test_langchain(server: RunningServer, engine: FakeEngine, tmp_path: Path) -> None:
    echo(engine)

    found = run("langchain_chat.py", server.url, tmp_path)

    (call,) = found.pop("tool")
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    assert found == {
        "invoke": "I LOVE PROGRAMMING. (1)",
        "stream": "I LOVE PROGRAMMING. (1)",
        "structured": ANIMAL,
    }


def test_the_llm_command_line(server: RunningServer, tmp_path: Path) -> None:
    """As its documentation calls an endpoint; once as a stream, and once not."""
    command = [str(tool("sdks", "llm")), "openai", "endpoint", f"{server.url}/v1", "-m", "gpt-5.5"]

    for more in ([], ["--no-stream"]):
        shown = output([*command, *more, "What is the capital of France?"], server.url, tmp_path)
        assert shown == "Hello from the fake engine.\n"


def test_the_stream_reader_of_langgraphs_library(server: RunningServer, tmp_path: Path) -> None:
    task_id = server.submit("Say hello.", stream=True)["task_id"]

    found = run("langgraph_events.py", server.url, tmp_path, f"{server.url}/api/v1/tasks/{task_id}/events")

    assert found["text"] == "Hello from the fake engine."
    assert found["names"][0] == "accepted"
    assert found["names"][-2:] == ["receipt", "end"]
