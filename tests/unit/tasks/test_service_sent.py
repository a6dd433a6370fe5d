"""Images, function tools and whole chats reach the engines, and only engines that take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import Message, ToolChoice, user
from llm_server.orchestration.domain.errors import InvalidInput
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.tasks.new_task import NewTask
from support.deliveries import a_plan, planning
from support.scripted_engine import ScriptedEngine, a_catalog, an_engine
from support.scripted_service import Served
from support.sent import WEATHER, a_call, a_result, an_image, asking, with_images
from support.triage_answers import triaging, unsure, verdict

LOOK = "What is in the upper left corner of this screenshot?"
REVIEWED = a_plan({"a": ""})
ASK = "What is the weather in Paris today, in degrees Celsius?"


def serving(served: Served, *answers: Any, **engines: EngineSpec) -> Served:
    served.engine = ScriptedEngine(*answers)
    served.use(a_catalog(engines or {"only": an_engine(vision=True)}))
    return served


def done(served: Served, prompt: str = ASK, **asked: Any) -> Snapshot:
    ref = served.submit(prompt, **asked)
    served.work()
    return served.get(ref)


def refused(served: Served, prompt: str = ASK, **asked: Any) -> InvalidInput:
    """Return the error of a new task; a dry run refuses the same."""
    new, found = NewTask(prompt=prompt, **asked), []
    for use in (served.service.submit, served.service.quote):
        with pytest.raises(InvalidInput) as caught:
            use("local", new)
        found.append(caught.value)
    assert str(found[0]) == str(found[1])
    return found[0]


def roles(call: EngineCall) -> list[str]:
    return [message.role for message in call.messages]


def said(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages]


# Images


def test_an_image_goes_with_the_prompt_to_an_engine_that_sees(served: Served) -> None:
    """Also if a blind one is cheaper."""
    blind, sees = ScriptedEngine("Blind."), ScriptedEngine("A cat.")
    served.use(
        a_catalog({"blind": an_engine(source="local", price=None), "sees": an_engine(vision=True)}),
        blind=blind,
        sees=sees,
    )

    task = done(served, LOOK, messages=with_images(LOOK))

    assert (task.result, blind.calls) == ("A cat.", [])
    assert sees.calls[0].messages == with_images(LOOK)


def test_a_named_engine_without_eyes_is_refused_with_those_that_have_some(served: Served) -> None:
    serving(served, blind=an_engine(), one=an_engine(vision=True), two=an_engine(vision=True, source="local"))

    error = refused(served, LOOK, messages=with_images(LOOK), engine="blind")
    assert (error.field, error.code) == ("engine", "engine_not_usable")
    assert str(error) == "Engine blind does not take the images of the task; engines that do: one, two."
    of_source = refused(served, LOOK, messages=with_images(LOOK), engine="blind", limits=Limits(sources=("api",)))
    assert str(of_source).endswith("engines that do: one.")


def test_without_an_engine_that_sees_the_field_is_refused(served: Served) -> None:
    serving(served, blind=an_engine(), seeing=an_engine(vision=True, source="local"))

    error = refused(served, LOOK, messages=with_images(LOOK), limits=Limits(sources=("api",)))
    assert (error.field, error.code) == ("attachments", "content_not_usable")
    assert "no configured engine with the source api that takes images is left" in str(error)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((an_image(),) * 17, "17 images; at most 16"),
        ((an_image(5_000_001),), "Image 1 has 5,000,001 bytes; at most 5,000,000"),
        ((an_image(4_000_000),) * 4, "16,000,000 bytes together; at most 15,000,000"),
        ((replace(an_image(), media_type="image/svg+xml"),), "'image/svg+xml'; accepted are image/png, image/jpeg"),
        ((an_image(), replace(an_image(), media_type="image/jpeg")), "image 2 is not of the type image/jpeg"),
        ((replace(an_image(), data="%%%"),), "image 1 is not valid base64"),
        ((replace(an_image(), url="https://example.com/a.png"),), "given by a URL, which this server does not allow"),
    ],
)
def test_an_image_that_engines_would_refuse_is_refused_at_once(served: Served, images: Any, said: str) -> None:
    error = refused(serving(served), LOOK, messages=with_images(LOOK, *images))

    assert error.field == "attachments"
    assert said in str(error)


def test_a_task_with_an_image_costs_at_least_its_worst_case(served: Served) -> None:
    """4,784 tokens of an image of Claude's at 1 micro-USD each, above what the texts alone may cost."""
    sees = an_engine(kind="anthropic", base_url="http://127.0.0.1:1")
    serving(served, claude=sees)
    plain = served.service.quote("local", NewTask(prompt=LOOK, role="Vision-Agent")).quote.worst_case_microusd
    seen = served.service.quote(
        "local", NewTask(prompt=LOOK, role="Vision-Agent", messages=with_images(LOOK))
    ).quote.worst_case_microusd

    assert plain is not None
    assert seen == plain + 4_784
    dear = done(served, LOOK, messages=with_images(LOOK), limits=Limits(max_cost_usd=0.004))
    assert (dear.task.status, served.engine.calls) == (Status.FAILED, [])


@pytest.mark.parametrize("seen", [True, False])
def test_the_role_that_reads_pictures_is_chosen_only_for_an_image(served: Served, seen: bool) -> None:
    messages = with_images("Describe this photo.") if seen else ()

    decided = serving(served).service.quote("local", NewTask(prompt="Describe this photo.", messages=messages)).decision

    roles = {decided.analysis.role, *dict(decided.analysis.alternatives)}
    assert ("Vision-Agent" in roles) is seen


def test_every_call_of_a_plan_that_quotes_the_prompt_has_its_images(served: Served) -> None:
    served.engine = planning(REVIEWED)
    served.use(a_catalog({"only": an_engine(vision=True)}))

    task = done(served, LOOK, messages=with_images(LOOK), mode=Mode.PLAN, profile="Developer")

    assert task.task.status is Status.COMPLETED
    assert len(served.engine.calls) == 4
    assert {call.messages[-1].images for call in served.engine.calls} == {(an_image(),)}


def test_a_triage_is_asked_without_the_image(served: Served) -> None:
    """A fast engine without eyes decides; it is told that there are images."""
    fast, sees = triaging(verdict(role="Vision-Agent")), ScriptedEngine("A cat.")
    catalog = unsure({"fast": an_engine(tier="fast"), "sees": an_engine(vision=True, tier="strong")})
    served.use(catalog, fast=fast, sees=sees)

    task = done(served, LOOK, messages=with_images(LOOK))

    assert (task.task.role, task.result) == ("Vision-Agent", "A cat.")
    assert all(not message.images for message in fast.calls[0].messages)
    assert "Images belong to the task" in fast.calls[0].prompt


def test_a_turn_with_an_image_is_told_with_it_and_needs_an_engine_that_sees(served: Served) -> None:
    serving(served, "A cat.", blind=an_engine(), sees=an_engine(vision=True))
    first = done(served, LOOK, messages=with_images(LOOK)).task.task_id

    later = done(served, "And what colour does it have?", previous_task_id=first)

    assert later.task.engine == "sees"
    assert served.engine.calls[-1].messages[0].images == (an_image(),)
    error = refused(served, "And its size?", previous_task_id=first, engine="blind")
    assert (error.field, "engines that do: sees" in str(error)) == ("engine", True)


# Function tools


def test_tools_go_with_the_answer_call_to_an_engine_that_takes_them(served: Served) -> None:
    without, takes = ScriptedEngine("No."), ScriptedEngine(asking(a_call("c1"), a_call("c2")))
    served.use(
        a_catalog({"without": an_engine(source="local", price=None), "takes": an_engine()}),
        without=without,
        takes=takes,
    )

    task = done(served, tools=(WEATHER,), tool_choice=ToolChoice(mode="required"))

    assert without.calls == []
    assert (takes.calls[0].tools, takes.calls[0].tool_choice) == ((WEATHER,), ToolChoice(mode="required"))
    assert (task.task.status, task.result, task.fault) == (Status.COMPLETED, "", None)
    assert task.tool_calls == (a_call("c1"), a_call("c2"))


def test_an_answer_that_asks_for_calls_is_not_escalated(served: Served) -> None:
    """Its text may be empty, or announce what the calls do."""
    cheap = ScriptedEngine(asking(text="2 + 3 = 6"))
    strong = ScriptedEngine("Strong.")
    engines = {"cheap": an_engine(tier="fast"), "strong": an_engine(tier="strong")}
    served.use(a_catalog(engines), cheap=cheap, strong=strong)

    task = done(served, "What is 2 + 3?", tools=(WEATHER,), role="Chat-Agent")

    assert (task.tool_calls, strong.calls) == ((a_call(),), [])


def test_results_follow_their_calls_and_the_engine_goes_on(served: Served) -> None:
    serving(served, asking(text="I look."), "18 degrees.")
    first = done(served, tools=(WEATHER,))

    second = done(served, "", messages=(a_result(),), tools=(WEATHER,), previous_task_id=first.task.task_id)

    assert second.result == "18 degrees."
    told = served.engine.calls[-1].messages
    assert roles(served.engine.calls[-1]) == ["user", "assistant", "tool"]
    assert (told[1].tool_calls, told[2].tool_call_id, told[1].text) == ((a_call(),), "c1", "I look.")
    assert (second.task.role, second.task.mode) == (first.task.role, first.task.mode)
    third = done(served, "And tomorrow, please?", previous_task_id=second.task.task_id)
    assert roles(served.engine.calls[-1]) == ["user", "assistant", "tool", "assistant", "user"]
    assert third.request.needs == ("tools",)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((), "The function calls c1, c2 have no result"),
        ((a_result("c1"),), "The function calls c2 have no result; send one for each."),
        ((a_result("c1"), a_result("c1")), "'c1' is not an open function call; open are c2."),
        ((a_result("c1"), a_result("c2"), a_result("c3")), "'c3' is not an open function call; no call is open."),
        ((a_result("c1"), *user(ASK), a_result("c2")), "The function calls c2 have no result"),
    ],
)
def test_each_open_call_has_exactly_one_result(served: Served, messages: Any, said: str) -> None:
    serving(served, asking(a_call("c1"), a_call("c2")))
    first = done(served, tools=(WEATHER,)).task.task_id

    error = refused(served, messages=messages, previous_task_id=first)
    assert (error.field, error.code) == ("tool_results", "tool_results_invalid")
    assert said in str(error)


def test_results_without_a_call_are_refused(served: Served) -> None:
    assert "no call is open" in str(refused(serving(served), "", messages=(a_result(),)))


def test_results_whose_calls_were_deleted_fail_the_task_before_any_call(served: Served) -> None:
    serving(served, asking())
    first = done(served, tools=(WEATHER,))
    second = served.submit("", messages=(a_result(),), previous_task_id=first.task.task_id)
    served.service.delete(first.task.ref)
    served.audit = lambda: None  # type: ignore[method-assign]  # it recounts stored tasks
    calls = len(served.engine.calls)

    served.work()

    task = served.get(second).task
    assert (task.status, len(served.engine.calls)) == (Status.FAILED, calls)
    assert "asked for the function calls was deleted" in str(task.error)


def test_turns_with_calls_are_told_whole_or_without_the_calls(served: Served) -> None:
    """A result in the middle of a conversation was deleted: an engine would refuse the call without it."""
    served.audit = lambda: None  # type: ignore[method-assign]
    serving(served, asking(), "18 degrees.", "Fine.")
    first = done(served, tools=(WEATHER,))
    second = done(served, "", messages=(a_result(),), previous_task_id=first.task.task_id)
    third = served.submit("Is that warm for May?", previous_task_id=second.task.task_id)
    served.service.delete(second.task.ref)

    served.work()

    assert served.get(third).task.status is Status.COMPLETED
    assert said(served.engine.calls[-1].messages) == [ASK, "Is that warm for May?"]
    assert not any(message.tool_calls for message in served.engine.calls[-1].messages)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"tools": (WEATHER,) * 2}, "tools"),
        ({"tools": (replace(WEATHER, name="a b"),)}, "tools"),
        ({"tools": tuple(replace(WEATHER, name=f"f{n}") for n in range(129))}, "tools"),
        ({"tool_choice": ToolChoice()}, "tool_choice"),
        ({"tools": (WEATHER,), "tool_choice": ToolChoice(name="other")}, "tool_choice"),
        ({"tools": (WEATHER,), "mode": Mode.PLAN}, "mode"),
        ({"messages": (*user(ASK), Message(role="assistant", tool_calls=(a_call(),)))}, "tool_results"),
        ({"messages": (*user("x" * 600), Message(role="assistant", text="x" * 600), *user(ASK))}, "prompt"),
        ({"instructions": "x" * 1_001}, "prompt"),
    ],
)
def test_wrong_tools_name_the_field(served: Served, asked: dict[str, Any], field: str) -> None:
    assert refused(serving(served), **asked).field == field


def test_a_task_with_tools_is_never_planned(served: Served) -> None:
    """The prompt alone would be."""
    prompt = "Build a REST API in FastAPI, write tests, deploy it and document it"
    serving(served, asking())
    assert served.service.quote("local", NewTask(prompt=prompt)).decision.analysis.mode is Mode.PLAN

    task = done(served, prompt, tools=(WEATHER,))

    assert task.task.mode is Mode.AGENT
    assert task.tool_calls
    assert any("is not planned" in reason for reason in task.request.reasons)


def test_a_task_with_tools_is_not_triaged(served: Served) -> None:
    """A triage could choose Plan mode."""
    served.engine = ScriptedEngine(asking())
    served.use(unsure())

    done(served, ASK, tools=(WEATHER,))

    assert [bool(call.answer_schema) for call in served.engine.calls] == [False]


# A whole chat of the caller's

CHAT = (
    *user("One?"),
    Message(role="assistant", text="", tool_calls=(a_call(),)),
    a_result(),
    Message(role="assistant", text="Answer 1."),
    *user(ASK),
)


def test_a_whole_chat_takes_the_place_of_the_prompt(served: Served) -> None:
    serving(served, "18 degrees.")

    task = done(served, ASK, messages=CHAT, instructions="Answer in French.")

    call = served.engine.calls[0]
    assert (call.messages, task.result) == (CHAT, "18 degrees.")
    assert call.system.endswith("\n\nAnswer in French.")
    assert len(call.system) > len("\n\nAnswer in French.") + 100


def test_a_chat_that_ends_with_results_is_answered(served: Served) -> None:
    serving(served, "18 degrees.")
    chat = (*user(ASK), Message(role="assistant", tool_calls=(a_call(),)), a_result())

    task = done(served, ASK, messages=chat, tools=(WEATHER,))

    assert (task.result, served.engine.calls[0].messages) == ("18 degrees.", chat)
    assert refused(served, ASK, messages=chat, mode=Mode.PLAN).field == "mode"


def test_the_calls_of_a_plan_are_told_the_messages_before_the_prompt(served: Served) -> None:
    """A verdict compares a result with its instruction, and nothing else. The plan itself is in our form."""
    served.engine = planning(REVIEWED)
    served.use(a_catalog({"only": an_engine(vision=True)}))

    done(served, ASK, messages=CHAT, mode=Mode.PLAN, profile="Developer", instructions="Answer in French.")

    plan, step, verdict, synthesis = served.engine.calls
    for call in (plan, step, synthesis):
        assert call.messages[:-1] == CHAT[:-1]
        assert ASK in call.prompt
    assert len(verdict.messages) == 1
    french = [call.system.endswith("Answer in French.") for call in served.engine.calls]
    assert french == [False, True, False, True]


def test_a_chat_after_a_turn_comes_after_it(served: Served) -> None:
    serving(served, "First answer.", "Second answer.")
    first = done(served, "First, what is a cloud?").task.task_id

    done(served, ASK, messages=CHAT, previous_task_id=first)

    assert said(served.engine.calls[-1].messages)[:3] == ["First, what is a cloud?", "First answer.", "One?"]


def test_the_digest_covers_what_is_sent_beside_the_prompt() -> None:
    plain = NewTask(prompt=ASK)
    others = [
        replace(plain, messages=with_images(ASK)),
        replace(plain, messages=with_images(ASK, an_image(seed=1))),
        replace(plain, tools=(WEATHER,)),
        replace(plain, instructions="Answer in French."),
        replace(plain, tools=(WEATHER,), tool_choice=ToolChoice()),
        replace(plain, messages=(a_result(),)),
    ]

    assert len({new.digest() for new in (plain, *others)}) == 7
