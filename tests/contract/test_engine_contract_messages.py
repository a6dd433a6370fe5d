"""What every adapter sends of a conversation with images and tools, and what it reads of the function calls."""

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.anthropic import AnthropicEngine
from llm_server.engines.bedrock import BedrockEngine
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from support.engine_wires import CALL, Wired, pool, server, wired
from support.fake_engine import changed, status

__all__ = ["pool", "server", "wired"]  # fixtures

PNG = Image(media_type="image/png", data=base64.b64encode(b"\x89PNG").decode())
TOOL = Tool(
    name="weather", description="Tells it.", parameters={"type": "object", "properties": {"city": {"type": "string"}}}
)
ASKED = ToolCall(call_id="c1", name="weather", arguments='{"city": "Wien"}')
TALK = (
    Message(role="user", text="What is this?", images=(PNG,)),
    Message(role="assistant", text="Vienna."),
    Message(role="user", text="And its weather?"),
    Message(role="assistant", text="Let me see.", tool_calls=(ASKED, replace(ASKED, call_id="c2", arguments="odd"))),
    Message(role="tool", text="Rain", tool_call_id="c1"),
    Message(role="tool", text="Sun", tool_call_id="c2"),
    Message(role="user", text="Go on, canary-77."),
)
IMAGE_URL = f"data:image/png;base64,{PNG.data}"
CHAT = [
    {"role": "system", "content": CALL.system},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": IMAGE_URL}},
        ],
    },
    {"role": "assistant", "content": "Vienna."},
    {"role": "user", "content": "And its weather?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Wien"}'}},
            {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": "odd"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
    {"role": "tool", "tool_call_id": "c2", "content": "Sun"},
    {"role": "user", "content": "Go on, canary-77."},
]
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG.data}},
        ],
    },
    {"role": "assistant", "content": "Vienna."},
    {"role": "user", "content": "And its weather?"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Wien"}},
            {"type": "tool_use", "id": "c2", "name": "weather", "input": {"arguments": "odd"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "Rain"},
            {"type": "tool_result", "tool_use_id": "c2", "content": "Sun"},
            {"type": "text", "text": "Go on, canary-77."},
        ],
    },
]
CONVERSE = [
    {
        "role": "user",
        "content": [{"text": "What is this?"}, {"image": {"format": "png", "source": {"bytes": PNG.data}}}],
    },
    {"role": "assistant", "content": [{"text": "Vienna."}]},
    {"role": "user", "content": [{"text": "And its weather?"}]},
    {
        "role": "assistant",
        "content": [
            {"text": "Let me see."},
            {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Wien"}}},
            {"toolUse": {"toolUseId": "c2", "name": "weather", "input": {"arguments": "odd"}}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "c1", "content": [{"text": "Rain"}]}},
            {"toolResult": {"toolUseId": "c2", "content": [{"text": "Sun"}]}},
            {"text": "Go on, canary-77."},
        ],
    },
]


def of(wired: Wired, chat: Any, messages: Any, converse: Any) -> Any:
    """Return what is expected of this adapter."""
    if isinstance(wired.engine, AnthropicEngine):
        return messages
    return converse if isinstance(wired.engine, BedrockEngine) else chat


def asked(wired: Wired, **fields: Any) -> Any:
    """Make a call with these fields; return the body of the request."""
    wired.engine.complete(replace(CALL, **fields), timeout_s=5)
    return wired.server.last.body


@pytest.mark.parametrize("on_text", [None, lambda _: None], ids=["whole", "streamed"])
def test_all_messages_are_sent_in_the_form_of_the_api(wired: Wired, on_text: Any) -> None:
    """Two results and a prompt are three messages of the user, which two of the APIs want as one."""
    body = asked(wired, messages=TALK, tools=(TOOL,), on_text=on_text)

    assert body["messages"] == of(wired, CHAT, MESSAGES, CONVERSE)


def test_an_image_can_be_given_by_its_url_where_the_api_fetches_it(wired: Wired) -> None:
    url = "https://example.com/a.png"
    messages = (Message(role="user", images=(Image(url=url),)),)
    if isinstance(wired.engine, BedrockEngine):
        with pytest.raises(PromptRefused, match="not by their URL"):
            asked(wired, messages=messages)
        assert wired.server.seen == []
        return

    sent = asked(wired, messages=messages)["messages"][-1]["content"]

    chat = [{"type": "image_url", "image_url": {"url": url}}]
    assert sent == of(wired, chat, [{"type": "image", "source": {"type": "url", "url": url}}], None)


@pytest.mark.parametrize(
    ("choice", "chat", "messages", "converse"),
    [
        (None, None, None, None),
        (ToolChoice(), "auto", {"type": "auto"}, {"auto": {}}),
        (ToolChoice(mode="required"), "required", {"type": "any"}, {"any": {}}),
        (
            ToolChoice(mode="required", name="weather"),
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
            {"tool": {"name": "weather"}},
        ),
    ],
)
def test_tools_and_the_choice_are_sent_in_the_form_of_the_api(
    wired: Wired, choice: ToolChoice | None, chat: Any, messages: Any, converse: Any
) -> None:
    plain = Tool(name="stop", strict=True)
    body = asked(wired, tools=(TOOL, plain), tool_choice=choice)

    described = {"name": "weather", "description": "Tells it."}
    empty = {"type": "object", "properties": {}}
    config = body.get("toolConfig", {})
    assert body.get("tools", config.get("tools")) == of(
        wired,
        [
            {"type": "function", "function": {**described, "parameters": TOOL.parameters}},
            {"type": "function", "function": {"name": "stop", "strict": True}},
        ],
        [
            {**described, "input_schema": TOOL.parameters},
            {"name": "stop", "strict": True, "input_schema": empty},
        ],
        [
            {"toolSpec": {**described, "inputSchema": {"json": TOOL.parameters}}},
            {"toolSpec": {"name": "stop", "strict": True, "inputSchema": {"json": empty}}},
        ],
    )
    assert body.get("tool_choice", config.get("toolChoice")) == of(wired, chat, messages, converse)


def test_tools_can_be_forbidden(wired: Wired) -> None:
    body = asked(wired, tools=(TOOL,), tool_choice=ToolChoice(mode="none"))

    assert body.get("tool_choice") == of(wired, "none", {"type": "none"}, None)
    assert "toolConfig" not in body


def test_a_conversation_with_calls_describes_their_tools_where_the_api_demands_it(wired: Wired) -> None:
    body = asked(wired, messages=TALK)

    empty = {"type": "object", "properties": {}}
    tools = of(
        wired,
        None,
        [{"name": "weather", "input_schema": empty}],
        [{"toolSpec": {"name": "weather", "inputSchema": {"json": empty}}}],
    )
    assert body.get("tools", body.get("toolConfig", {}).get("tools")) == tools


def test_a_call_without_tools_has_no_field_for_them(wired: Wired) -> None:
    assert not {"tools", "tool_choice", "toolConfig"} & asked(wired).keys()


def answered(wired: Wired, call: EngineCall, *, streams: bool) -> Completion:
    """Make a call, streamed or whole."""
    taken = list[str]()
    on_text = taken.append if streams else None
    completion = wired.engine.complete(replace(call, on_text=on_text), timeout_s=5)
    assert not streams or "".join(taken) == completion.text
    return completion


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("text", ["Let me see.", ""])
def test_function_calls_are_read(wired: Wired, streams: bool, text: str) -> None:
    wired.server.text = text
    wired.server.tool_calls = (("c1", "weather", '{"city": "Wien 🧪"}'), ("c2", "stop", "{}"))

    completion = answered(wired, replace(CALL, tools=(TOOL,)), streams=streams)

    assert completion.text == text
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in completion.tool_calls] == [
        ("c1", "weather", {"city": "Wien 🧪"}),
        ("c2", "stop", {}),
    ]
    assert not completion.truncated


@pytest.mark.parametrize("streams", [True, False])
def test_the_arguments_of_calls_count_in_an_estimate(wired: Wired, streams: bool) -> None:
    wired.server.text = "x" * 40
    wired.server.tool_calls = (("c1", "f", '{"a":"%s"}' % ("y" * 390)),)
    wired.server.script(changed(lambda answer: answer.pop("usage")))

    usage = answered(wired, CALL, streams=streams).usage

    assert usage.estimated
    assert 109 <= usage.output_tokens <= 111


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("name", [None, ""])
def test_a_call_without_a_name_is_no_answer(wired: Wired, streams: bool, name: Any) -> None:
    wired.server.tool_calls = (("c1", "", "{}"),)
    wired.server.script(changed(lambda answer: _rename(answer, name)))

    with pytest.raises(EngineUnavailable, match="without a name") as caught:
        answered(wired, CALL, streams=streams)
    assert (caught.value.kind, caught.value.may_be_billed) == ("garbage", True)


@pytest.mark.parametrize("streams", [True, False])
def test_a_call_without_an_id_gets_one_of_its_own(wired: Wired, streams: bool) -> None:
    wired.server.tool_calls = (("", "f", "{}"), ("", "f", "{}"))

    first, second = answered(wired, CALL, streams=streams).tool_calls

    assert first.call_id
    assert second.call_id
    assert first.call_id != second.call_id


def test_a_reason_that_repeats_any_of_the_messages_is_not_shown(wired: Wired) -> None:
    for quoted in ("And its weather?", "Let me see.", "canary-77", "Rain and more: canary-77."):
        message = f"I do not take {quoted} of you"
        wired.server.script(status(400, {"error": {"message": message}, "message": message}))
        with pytest.raises(PromptRefused) as caught:
            wired.engine.complete(replace(CALL, messages=TALK, tools=(TOOL,)), timeout_s=5)

        assert quoted not in str(caught.value)


def _rename(value: Any, name: Any) -> None:
    """Change the name of each call in an answer."""
    if isinstance(value, dict):
        if "name" in value:
            value["name"] = name
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        _rename(item, name)
