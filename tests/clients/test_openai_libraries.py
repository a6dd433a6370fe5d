"""OpenAI's libraries, unmodified: their documentation's first examples with only base URL and key changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients.conftest import printed, run
from support.fake_engine import FakeEngine
from support.server_process import RunningServer

pytestmark = pytest.mark.clients

ANIMAL = {"name": "Fox", "legs": 4}


def echo(engine: FakeEngine) -> None:
    """Let the engine repeat the last text, with the number of messages of users that it was sent.

    It answers a schema with an animal, and asks for the first tool that a user's message comes with.
    """

    def answer(body: Any) -> str:
        users, last = [m for m in body["messages"] if m["role"] == "user"], body["messages"][-1]
        functions = [tool["function"]["name"] for tool in body.get("tools", ())] if last["role"] == "user" else []
        engine.tool_calls = tuple(("call_1", name, '{"city": "Paris"}') for name in functions)
        if body.get("response_format"):
            return json.dumps(ANIMAL)
        return "" if functions else f"{last['content'].upper()} ({len(users)})"

    engine.answer = answer


@pytest.mark.parametrize("script", ["openai_responses.py", "openai_chat.py"])
def test_the_first_examples_of_the_python_library(
    script: str, server: RunningServer, engine: FakeEngine, tmp_path: Path
) -> None:
    assert printed(script, server.url, tmp_path) == "Hello from the fake engine.\n"

    system = engine.last.body["messages"][0]["content"]
    assert "alk" in system
    assert "pirate" in system
    assert engine.last.body["messages"][-1]["content"].startswith("How do I check")


def test_the_asynchronous_python_library(server: RunningServer, tmp_path: Path) -> None:
    assert printed("openai_async.py", server.url, tmp_path) == "Hello from the fake engine.\n" * 2


def test_the_first_examples_of_the_node_library(server: RunningServer, tmp_path: Path) -> None:
    assert printed("openai_readme.mjs", server.url, tmp_path) == "Hello from the fake engine.\n" * 3


def test_the_helpers_of_the_python_library(server: RunningServer, engine: FakeEngine, tmp_path: Path) -> None:
    echo(engine)

    found = run("openai_helpers.py", server.url, tmp_path)

    assert found == {
        "stream": ["TELL ME ABOUT FOXES. (1)"] * 2 + ["completed"],
        "chat stream": ["TELL ME MORE. (1)"] * 2,
        "usage": [18],
        "background": [True, "completed", "TAKE YOUR TIME. (1)"],
        "resumed": ["WRITE SLOWLY. (1)", True, "response.completed"],
        "parsed": ANIMAL,
        "chat parsed": ANIMAL,
        "tool": ["tool_calls", "GetWeather", {"city": "Paris"}],
        "tool result": "SUNNY. (1)",
        "previous": [True, "WHAT IS MY NAME? (2)"],
        "conversation": ["WHAT IS MY NAME? (2)", True],
        "cancelled": True,
        "models": True,
    }
