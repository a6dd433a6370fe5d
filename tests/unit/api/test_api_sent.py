"""Attachments, function tools and their results over HTTP, as a real engine gets them and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_engine import FakeEngine, fake_engine
from support.in_process_server import CalledServer, called_server
from support.sent import an_image

PICTURE = f"data:image/png;base64,{an_image().data}"
IMAGE = {"type": "image", "url": PICTURE}
TOOL = {"name": "get_weather", "description": "Tells the weather.", "parameters": {"type": "object"}, "strict": True}
CONFIG = """
[engines.sees]
kind = "openai"
source = "local"
model = "m-1"
base_url = "{url}"
vision = true
tools = true

[engines.plain]
kind = "openai"
source = "local"
model = "m-1"
base_url = "{url}"
"""


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine(text="18 degrees.") as engine:
        yield engine


@pytest.fixture
def sent(tmp_path: Path, engine: FakeEngine) -> Iterator[CalledServer]:
    with called_server(tmp_path, CONFIG.format(url=engine.base_url)) as server:
        yield server


def done(server: CalledServer, **fields: Any) -> dict[str, Any]:
    answer = server.post(fields)
    assert answer.status == 202, answer.body
    server.work()
    task: dict[str, Any] = server.get(f"tasks/{answer.json['task_id']}").json
    assert task["status"] == "Completed", task["error"]
    return task


def test_an_image_reaches_the_engine(sent: CalledServer, engine: FakeEngine) -> None:
    task = done(sent, prompt=" Describe this photo. ", attachments=[IMAGE], role="Vision-Agent")

    assert (task["engine"], task["tool_calls"]) == ("sees", [])
    assert engine.last.body["messages"][-1]["content"] == [
        {"type": "text", "text": "Describe this photo."},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]


def test_a_function_call_is_shown_answered_and_told(sent: CalledServer, engine: FakeEngine) -> None:
    engine.tool_calls, engine.text = (("c1", "get_weather", '{"city": "Paris"}'),), ""
    choice = {"name": "get_weather"}
    first = done(sent, prompt="What is the weather?", tools=[TOOL], tool_choice=choice)

    called = {"call_id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert (first["result"], first["tool_calls"], first["mode"] != "Plan") == ("", [called], True)
    assert first["events"][-1]["detail"] == "function calls: get_weather"
    events = sent.get(f"tasks/{first['task_id']}/events").json["events"]
    assert [event["tool_calls"] for event in events if event["event"] == "completed"] == [[called]]
    assert all("tool_calls" not in event for event in events if event["event"] != "completed")
    asked = engine.last.body
    assert asked["tools"] == [{"type": "function", "function": TOOL}]
    assert asked["tool_choice"] == {"type": "function", "function": choice}

    engine.tool_calls, engine.text = (), "18 degrees."
    result = {"call_id": "c1", "output": "18"}
    second = done(sent, tool_results=[result], tools=[TOOL], previous_task_id=first["task_id"])

    assert second["result"] == "18 degrees."
    assert [message["role"] for message in engine.last.body["messages"]] == ["system", "user", "assistant", "tool"]
    assert engine.last.body["messages"][-1]["content"] == "18"
    third = done(sent, prompt="And in two days?", tool_results=[], previous_task_id=second["task_id"])
    assert third["tool_calls"] == []


def test_results_and_a_prompt_may_come_together(sent: CalledServer, engine: FakeEngine) -> None:
    engine.tool_calls = (("c1", "get_weather", "{}"),)
    conversation = sent.call("POST", "conversations").json["conversation_id"]
    done(sent, prompt="What is the weather?", tools=[TOOL], conversation_id=conversation)
    engine.tool_calls = ()

    without = sent.post({"prompt": "Say it in Fahrenheit, please.", "conversation_id": conversation})
    assert (without.status, without.code) == (422, "tool_results_invalid")
    assert without.json["errors"][0]["pointer"] == "/tool_results"
    done(
        sent,
        prompt="Say it in Fahrenheit, please.",
        attachments=[IMAGE],
        tool_results=[{"call_id": "c1", "output": "18"}],
        conversation_id=conversation,
    )

    assert [message["role"] for message in engine.last.body["messages"]] == [
        *("system", "user", "assistant", "tool", "user"),
    ]


@pytest.mark.parametrize("path", ["tasks", "tasks/quote", "tasks?dry_run=true"])
@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"attachments": [{"type": "image", "url": "http://example.com/a.png"}]}, "/attachments", "must be a data URL"),
        ({"attachments": [{"type": "image", "url": "https://x.example/a.png"}]}, "/attachments", "does not allow"),
        ({"attachments": [{"type": "image", "url": PICTURE[:-3] + "%"}]}, "/attachments", "not valid base64"),
        ({"attachments": [{"type": "audio", "url": PICTURE}]}, "/attachments/0/type", "must be 'image'"),
        ({"attachments": [IMAGE | {"detail": "low"}]}, "/attachments/0/detail", "known are type, url"),
        ({"attachments": [IMAGE] * 17}, "/attachments", "at most 16 entries"),
        ({"attachments": [IMAGE], "prompt": " "}, "/prompt", "The prompt is blank"),
        ({"attachments": [IMAGE], "engine": "plain"}, "/engine", "engines that do: sees"),
        ({"tools": [TOOL], "engine": "plain"}, "/engine", "engines that do: sees"),
        ({"tools": [TOOL], "mode": "Plan"}, "/mode", "choose another"),
        ({"tools": [{"name": "a b"}]}, "/tools/0/name", "must match the pattern"),
        ({"tools": [TOOL], "tool_choice": "some"}, "/tool_choice", "allowed is auto, none, required or {"),
        ({"tools": [TOOL], "tool_choice": {"name": "f", "x": 1}}, "/tool_choice", "allowed is auto"),
        ({"tool_choice": "auto"}, "/tool_choice", "needs tools"),
        ({"tool_results": [{"call_id": "c1", "output": "x"}]}, "/tool_results", "no call is open"),
        ({"tool_results": [{"call_id": "c1", "output": "x\x00"}]}, "/tool_results/0/output", "NUL character"),
    ],
)
def test_wrong_fields_are_named(sent: CalledServer, path: str, fields: dict[str, Any], pointer: str, said: str) -> None:
    answer = sent.post({"prompt": "Describe this photo."} | fields, path)

    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, pointer), answer.body
    assert said in answer.detail


def test_a_prompt_may_be_missing_only_beside_results(sent: CalledServer) -> None:
    without: list[dict[str, Any]] = [{"attachments": [IMAGE]}, {"tools": [TOOL]}, {"tool_results": []}]
    for fields in without:
        assert sent.post(fields).detail.startswith("The field 'prompt' is missing.")


def test_an_operator_can_allow_urls(tmp_path: Path, engine: FakeEngine) -> None:
    """The engine fetches them; this server never does."""
    url = "https://x.example/a.png"
    with called_server(tmp_path, CONFIG.format(url=engine.base_url), remote_images=True) as server:
        done(server, prompt="Describe this photo.", attachments=[{"type": "image", "url": url}])
        for wrong in ("https://user@x.example/a.png", "https://x.example/a b", f"https://x.example/{'a' * 2_000}"):
            refused = server.post({"prompt": "x", "attachments": [{"type": "image", "url": wrong}]})
            assert refused.json["errors"][0]["pointer"] == "/attachments"

    assert engine.last.body["messages"][-1]["content"][-1] == {"type": "image_url", "image_url": {"url": url}}


def test_a_body_with_large_images_is_accepted(sent: CalledServer) -> None:
    large = [{"type": "image", "url": f"data:image/png;base64,{an_image(5_000_000, seed).data}"} for seed in range(3)]

    assert sent.post({"prompt": "x" * 200_000, "attachments": large}, "tasks/quote").status == 200


def test_an_idempotency_key_covers_images_and_results(sent: CalledServer) -> None:
    """Another image under the same key is another body."""
    other = {"type": "image", "url": f"data:image/png;base64,{an_image(seed=1).data}"}
    body = {"prompt": "Describe this photo."}

    first = sent.post(body | {"attachments": [IMAGE]}, idempotency_key="k1")
    again = sent.post(body | {"attachments": [IMAGE]}, idempotency_key="k1")
    wrong = sent.post(body | {"attachments": [other]}, idempotency_key="k1")

    assert (first.status, again.json["task_id"]) == (202, first.json["task_id"])
    assert (wrong.status, wrong.code) == (422, "idempotency_key_reused")
