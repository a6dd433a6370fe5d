"""What every adapter sends to an engine that is marked as small, and that it sends none of it to other engines."""

from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.engines.connections import EnginePool
from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.catalog import END_MARKS
from llm_server.orchestration.execution import plan_proposal
from support.engine_wires import CALL, WIRES, Wired, pool, server, wire
from support.fake_engine import FakeEngine, changed

PLAN_CALL = replace(CALL, answer_schema=AnswerSchema(name="plan", schema=plan_proposal.schema(["Writing-Agent"])))
SENT_STOPS = {"openai": "stop", "anthropic": "stop_sequences", "bedrock": "stopSequences"}
__all__ = ["pool", "server"]  # fixtures


@pytest.fixture(params=WIRES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fields_of(body: Any) -> dict[str, Any]:
    """Return the fields of a request; those of Converse's `inferenceConfig` beside the others."""
    return {**body, **body.get("inferenceConfig", {})}


def sent(wired: Wired, call: Any = CALL) -> dict[str, Any]:
    wired.engine.complete(call, timeout_s=5)
    return fields_of(wired.server.last.body)


def test_a_small_engine_is_told_where_an_answer_ends(name: str, server: FakeEngine, pool: EnginePool) -> None:
    """These are the ends of an answer in common chat templates. OpenAI's API takes at most four."""
    assert sent(wire(name, server, pool, small=True))[SENT_STOPS[name]] == list(END_MARKS)
    assert len(END_MARKS) <= 4


def test_another_engine_is_sent_none_of_it(name: str, server: FakeEngine, pool: EnginePool) -> None:
    """Vendors refuse fields that they do not know."""
    wired = wire(name, server, pool)
    usual = sent(wired).keys()

    added = sent(wire(name, server, pool, small=True)).keys() - usual
    assert not usual & {"stop", "stop_sequences", "stopSequences", "repeat_penalty"}
    assert added == ({"stop", "repeat_penalty"} if name == "openai" else {SENT_STOPS[name]})


def test_only_chat_completions_has_a_field_for_the_penalty(server: FakeEngine, pool: EnginePool) -> None:
    assert sent(wire("openai", server, pool, small=True))["repeat_penalty"] == 1.1
    assert sent(wire("openai", server, pool, small=True, repeat_penalty=1.3))["repeat_penalty"] == 1.3


def test_json_is_not_punished_for_its_repetitions(server: FakeEngine, pool: EnginePool) -> None:
    """Each step of a plan repeats the names of its fields."""
    assert "repeat_penalty" not in sent(wire("openai", server, pool, small=True), PLAN_CALL)


def test_a_server_that_refuses_the_fields_is_sent_none(name: str, server: FakeEngine, pool: EnginePool) -> None:
    opted_out = {"stop": ()} | ({"repeat_penalty": 1} if name == "openai" else {})

    assert sent(wire(name, server, pool, small=True, **opted_out)).keys() == sent(wire(name, server, pool)).keys()


def test_an_engine_that_is_not_small_can_have_texts_to_stop_at(name: str, server: FakeEngine, pool: EnginePool) -> None:
    assert sent(wire(name, server, pool, stop=("END",)))[SENT_STOPS[name]] == ["END"]


@pytest.mark.parametrize("mark", [*END_MARKS, "</s>"])
def test_the_end_mark_and_what_follows_it_are_cut_off(
    name: str, server: FakeEngine, pool: EnginePool, mark: str
) -> None:
    """Not every server obeys. What follows the mark is a turn that the model invented."""
    server.text = f"Four.{mark}\n<|im_start|>user\nAnd 3 + 3?"
    wired = wire(name, server, pool, small=True)
    wired.server.script(changed(wired.cut))

    completion = wired.engine.complete(CALL, timeout_s=5)

    assert completion.text == "Four."
    assert not completion.truncated


def test_the_answer_of_another_engine_may_speak_of_end_marks(name: str, server: FakeEngine, pool: EnginePool) -> None:
    server.text = "ChatML ends a turn with <|im_end|>, Llama 2 with </s>."

    assert wire(name, server, pool).engine.complete(CALL, timeout_s=5).text == server.text


@pytest.mark.parametrize("text", ["It costs <s>9</s> 7 euros.", "Hello.", ""])
def test_text_without_an_end_mark_stays_whole(name: str, server: FakeEngine, pool: EnginePool, text: str) -> None:
    """In HTML, </s> closes text that is struck through."""
    server.text = text
    wired = wire(name, server, pool, small=True)
    wired.server.script(changed(wired.cut))

    completion = wired.engine.complete(CALL, timeout_s=5)

    assert (completion.text, completion.truncated) == (text, True)
