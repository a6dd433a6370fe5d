"""What a request of the OpenAI dialect becomes: pure functions from a body to a new task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.api.openai.errors import ModelNotFound
from llm_server.api.openai.requests import chat, counting, fields, responses, schemas
from llm_server.api.openai.requests.reading import Part
from llm_server.api.openai.requests.target import Target, models, target
from llm_server.orchestration.domain.engines.message import Image, Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.status import Mode, Priority
from llm_server.orchestration.tasks.new_task import NewTask
from support.scripted_engine import a_catalog, an_engine

PNG = "data:image/png;base64,aGk="
WEATHER = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True}
TOOL = Tool(name="weather", description="Tells it.", parameters={"type": "object"}, strict=True)


def of_chat(*messages: dict[str, Any], **more: Any) -> NewTask:
    return chat.new_task(Part({"model": "auto", "messages": [*messages], **more}), Target())


def of_response(given: Any, **more: Any) -> NewTask:
    return responses.new_task(Part({"model": "auto", "input": given, **more}), Target())


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def fault_of(call: Callable[[], object]) -> tuple[str, str]:
    """Return the field and the sentence of the fault that a call raises."""
    with pytest.raises(InvalidInput) as caught:
        call()
    return caught.value.field, str(caught.value)


def test_one_message_of_the_user_is_the_prompt_alone() -> None:
    assert of_chat(said("user", "Hello.")) == NewTask(prompt="Hello.")
    assert of_response("Hello.") == NewTask(prompt="Hello.")
    assert of_response([said("user", [{"type": "input_text", "text": "Hello."}])]) == NewTask(prompt="Hello.")


def test_the_texts_of_the_system_are_the_instructions() -> None:
    """System and developer messages, and the `instructions` of a response, which come first."""
    messages = (
        said("system", "Be brief."),
        said("user", "Hello."),
        said("developer", [{"type": "text", "text": "Rhyme."}]),
    )

    assert of_chat(*messages) == NewTask(prompt="Hello.", instructions="Be brief.\n\nRhyme.")
    assert of_response([*messages], instructions="Be kind.").instructions == "Be kind.\n\nBe brief.\n\nRhyme."


def test_a_chat_keeps_its_turns_in_order() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    new = of_chat(
        said("user", "Weather?"),
        said("assistant", None, tool_calls=[call]),
        said("tool", "Rain.", tool_call_id="c1"),
        said("assistant", "It rains."),
        said("user", "Thanks."),
    )

    assert new.prompt == "Thanks."
    assert new.messages == (
        Message(role="user", text="Weather?"),
        Message(role="assistant", tool_calls=(ToolCall(call_id="c1", name="weather", arguments="{}"),)),
        Message(role="tool", text="Rain.", tool_call_id="c1"),
        Message(role="assistant", text="It rains."),
        Message(role="user", text="Thanks."),
    )


def test_the_items_of_an_output_are_one_message_of_the_assistant() -> None:
    """Text and the function calls after it; reasoning that a client sends back is left out."""
    new = of_response(
        [
            said("user", "Weather here and there?"),
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "id": "msg_1", **said("assistant", [{"type": "output_text", "text": "I look."}])},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": '{"at": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Sun."}]},
        ]
    )
    calls = tuple(ToolCall(call_id=i, name="weather", arguments=a) for i, a in (("c1", "{}"), ("c2", '{"at": 1}')))

    assert new.prompt == "Weather here and there?"
    assert new.messages[1:] == (
        Message(role="assistant", text="I look.", tool_calls=calls),
        Message(role="tool", text="Rain.", tool_call_id="c1"),
        Message(role="tool", text="Sun.", tool_call_id="c2"),
    )


def test_two_answers_in_a_row_stay_two_messages() -> None:
    new = of_response([said("user", "a"), said("assistant", "b"), said("assistant", "c"), said("user", "d")])

    assert [message.text for message in new.messages] == ["a", "b", "c", "d"]


def test_images_are_bytes_or_an_address() -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    inputs = [{"type": "input_image", "image_url": PNG}, {"type": "input_text", "text": "What is it?"}]
    image = Image(media_type="image/png", data="aGk=")

    (message,) = of_chat(said("user", parts)).messages
    assert message == Message(role="user", text="What is it?", images=(image, Image(url="https://example.com/a.png")))
    assert of_response([said("user", inputs)]).messages[0].images == (image,)


def test_functions_and_the_choice_among_them() -> None:
    of_a_chat = of_chat(
        said("user", "x"),
        tools=[{"type": "function", "function": WEATHER}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    of_a_response = of_response("x", tools=[{"type": "function", **WEATHER}], tool_choice="none")

    assert of_a_chat.tools == of_a_response.tools == (TOOL,)
    assert of_a_chat.tool_choice == ToolChoice(mode="required", name="weather")
    assert of_a_response.tool_choice == ToolChoice(mode="none")
    assert of_response("x", tools=[{"type": "function", "name": "a"}]).tools == (Tool(name="a"),)
    assert of_response("x", tools=[], tool_choice="auto") == NewTask(prompt="x")


def test_the_lowest_limit_of_tokens_holds() -> None:
    assert of_chat(said("user", "x"), max_tokens=50, max_completion_tokens=40).limits.max_output_tokens == 40
    limits = {"max_output_tokens": 30, "max_cost_usd": 0.5}
    assert of_response("x", max_output_tokens=60.0, limits=limits).limits.max_output_tokens == 30
    assert of_response("x", limits=limits).limits.max_cost_usd == 0.5


def test_what_a_response_takes_besides() -> None:
    new = of_response(
        "x",
        stream=True,
        background=True,
        background_options={"completion_window": "2h"},
        previous_response_id="resp_t1",
        metadata={"ticket": "4711"},
        profile="General",
        role="Writing-Agent",
    )

    assert new == NewTask(
        prompt="x",
        stream=True,
        priority=Priority.BATCH,
        previous_task_id="t1",
        metadata={"ticket": "4711"},
        profile="General",
        role="Writing-Agent",
    )
    assert of_response("x", conversation={"id": "conv_c1"}).conversation_id == "c1"
    assert of_response("x", conversation="c1").conversation_id == "c1"


def test_a_model_is_a_mode_a_role_or_an_engine() -> None:
    """An engine is also known by its own model; the first one, if several have it."""
    others = {name: replace(an_engine(), model="gpt-5.5") for name in ("first", "second")}
    catalog = a_catalog({"gpt": an_engine(), "plan": an_engine(), **others})

    assert target("auto", catalog) == Target()
    assert target("PLAN", catalog) == Target(mode=Mode.PLAN)
    assert target("writing-agent", catalog) == Target(role="Writing-Agent")
    assert target("gpt", catalog) == Target(engine="gpt")
    assert target("GPT-5.5", catalog) == Target(engine="first")
    with pytest.raises(
        ModelNotFound,
        match=r"Unknown model 'gpt-5'; known are .*Chat-Agent, .*auto, chat, first, gpt, gpt-5.5, m-1, plan, second",
    ):
        target("gpt-5", catalog)
    assert {"auto", "chat", "agent", "plan", "gpt", "Writing-Agent"} <= models(catalog).keys()


def test_the_chosen_role_wins_over_the_model() -> None:
    body = Part({"messages": [said("user", "x")], "role": "QA-Agent"})
    new = chat.new_task(body, Target(role="Writing-Agent"))

    assert new.role == "QA-Agent"


def test_schemas_of_both_forms() -> None:
    schema = {"type": "object", "properties": {}}
    named = {"name": "a", "strict": True, "schema": schema}

    assert schemas.of_chat(Part({"response_format": {"type": "json_schema", "json_schema": named}})) == schema
    assert schemas.of_responses(Part({"text": {"format": {"type": "json_schema", **named}}})) == schema
    assert schemas.of_responses(Part({"text": {"format": {"type": "json_object"}}})) == {"type": "object"}
    assert schemas.of_chat(Part({"response_format": {"type": "text"}})) is None
    assert schemas.of_responses(Part({"text": {}})) is None


@pytest.mark.parametrize(
    ("make", "field", "sentence"),
    [
        (lambda: of_chat(), "messages", "The field 'messages' must have at least one message of the role 'user'."),
        (lambda: of_chat(said("robot", "x")), "messages.0.role", "must be one of 'system', "),
        (lambda: of_chat({"content": "x"}), "messages.0.role", "The field 'messages.0.role' is missing."),
        (lambda: of_chat(said("user", "x", age=3)), "messages.0.age", "Unknown field 'messages.0.age'; known are "),
        (lambda: of_chat(said("user", 3)), "messages.0.content", "must be a string"),
        (lambda: of_chat(said("user", "a\x00")), "messages.0.content", "contains a NUL character"),
        (lambda: of_chat(said("tool", "x")), "messages.0.tool_call_id", "is missing"),
        (lambda: of_chat(said("user", [{"type": "input_audio"}])), "messages.0.content.0.type", "'input_audio'"),
        (lambda: of_chat(said("user", ["x"])), "messages.0.content.0", "must be a JSON object"),
        (lambda: of_chat(said("user", "x"), n=True), "n", "leave it out or send 1."),
        (lambda: of_chat(said("user", "x"), n=2), "n", "leave it out or send 1."),
        (lambda: of_chat(said("user", "x"), logprobs=True), "logprobs", "leave it out or send false." ),
        (lambda: of_chat(said("user", "x"), stop="END"), "stop", "does not do; leave it out."),
        (lambda: of_chat(said("user", "x"), stream="yes"), "stream", "must be true or false"),
        (lambda: of_chat(said("user", "x"), nowhere=1), "nowhere", "Unknown field 'nowhere'; known are audio, "),
        (lambda: of_chat(said("user", "x"), max_tokens=0), "max_tokens", "must be a whole number from 1 to 1,000,000"),
        (lambda: of_chat(said("user", "x"), tools=[{"type": "custom"}]), "tools.0.type", "must be 'function'"),
        (lambda: of_chat(said("user", "x"), tool_choice="any"), "tool_choice", "'auto', 'none', 'required'"),
        (lambda: of_chat(said("user", "x"), limits={"max_cost_usd": 0}), "limits.max_cost_usd", "greater than 0"),
        (lambda: of_chat(said("user", "x"), metadata={"a": 1}), "metadata.a", "must be a string"),
        (lambda: of_chat(said("user", "x"), metadata={"": "x"}), "metadata", "keys of 1 to 64 characters"),
        (lambda: of_chat(said("user", "x"), metadata={str(n): "" for n in range(17)}), "metadata", "at most 16"),
        (lambda: of_response(3), "input", "The field 'input' must be a string or a list."),
        (lambda: of_response([]), "input", "must have a text"),
        (lambda: of_response([{"type": "item_reference", "id": "x"}]), "input.0.type", "'item_reference'"),
        (lambda: of_response([said("user", [{"type": "input_file"}])]), "input.0.content.0.type", "'input_file'"),
        (lambda: of_response("x", previous_response_id="a#b"), "previous_response_id", "is not the id"),
        (lambda: of_response("x", previous_response_id="a", conversation="b"), "conversation", "send one of them"),
        (lambda: of_response("x", prompt={"id": "pmpt_1"}), "prompt", "leave it out"),
        (lambda: of_response("x", background_options={"x": 1}), "background_options.x", "Unknown"),
    ],
)  # fmt: skip
def test_a_fault_names_its_field(make: Callable[[], object], field: str, sentence: str) -> None:
    found, told = fault_of(make)

    assert found == field
    assert sentence in told
    assert told.endswith(".")


def image_of(url: Any, **more: Any) -> Callable[[], object]:
    return lambda: of_response([said("user", [{"type": "input_image", "image_url": url, **more}])])


@pytest.mark.parametrize("url", ["ftp://example.com/a", "data:image/png,x", "data:text/plain;base64,aGk=", "a.png"])
def test_other_addresses_of_images_are_refused(url: str) -> None:
    field, _ = fault_of(image_of(url))

    assert field == "input.0.content.0.image_url"


def test_files_are_refused_by_name() -> None:
    field, told = fault_of(image_of(None, file_id="file-1"))

    assert (field, "keeps no files" in told) == ("input.0.content.0.file_id", True)


@pytest.mark.parametrize("name", sorted(fields.CHAT_IGNORED))
def test_ignored_fields_change_nothing(name: str) -> None:
    assert of_chat(said("user", "x"), **{name: "anything"}) == NewTask(prompt="x")


@pytest.mark.parametrize("name", sorted(fields.RESPONSES_IGNORED))
def test_ignored_fields_of_a_response_change_nothing(name: str) -> None:
    assert of_response("x", **{name: "anything"}) == NewTask(prompt="x")


@pytest.mark.parametrize(("name", "harmless"), [*fields.CHAT_REFUSED.items()])
def test_a_refused_field_may_be_null_or_ask_for_nothing(name: str, harmless: tuple[Any, ...]) -> None:
    assert all(of_chat(said("user", "x"), **{name: value}) == NewTask(prompt="x") for value in (None, *harmless))
    assert fault_of(lambda: of_chat(said("user", "x"), **{name: {"asks": "for something"}}))[0] == name


def test_tokens_are_estimated_of_all_that_is_sent() -> None:
    """One for four characters: instructions, messages, and the functions as JSON."""
    alone = counting.tokens(Part({"input": "x" * 40}))
    more = counting.tokens(Part({"input": "x" * 40, "instructions": "y" * 40}))
    offered = counting.tokens(Part({"input": "x" * 40, "tools": [{"type": "function", **WEATHER}]}))

    assert (alone, more) == (10, 20)
    assert offered > alone + 15
    assert fault_of(lambda: counting.tokens(Part({"previous_response_id": "a"})))[0] == "previous_response_id"
