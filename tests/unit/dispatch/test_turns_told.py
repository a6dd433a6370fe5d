"""Which earlier turns an engine is told: the newest that fit into its context, each whole, and how many are not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch.budget import Budget
from llm_server.orchestration.domain.engines.call import EngineCall
from llm_server.orchestration.domain.engines.message import Image, Message, ToolCall, user
from llm_server.orchestration.domain.errors import EngineUnavailable
from support.scripted_engine import Balanced, ScriptedEngine, a_catalog, an_engine, call_terms

PROMPT = "p" * 30
"""10 tokens, as estimated for a context; an exchange of 30 + 30 characters has 20."""


def exchange(letter: str) -> tuple[Message, ...]:
    return Message(role="user", text=letter * 30), Message(role="assistant", text=letter * 30)


def a_call(*letters: str, **changes: object) -> EngineCall:
    turns = [message for letter in letters for message in exchange(letter)]
    call = EngineCall(system="s" * 30, messages=(*turns, *user(PROMPT)), max_output_tokens=100)
    return replace(call, **changes)


def told(call: EngineCall) -> str:
    """Return the first letter of each message."""
    return "".join(message.text[0] for message in call.messages)


@pytest.mark.parametrize(
    ("context", "letters", "dropped"),
    [(180, "aabbccp", 0), (179, "bbccp", 1), (160, "bbccp", 1), (159, "ccp", 2), (139, "p", 3), (5, "p", 3)],
)
def test_the_oldest_turns_are_dropped_first_and_whole(context: int, letters: str, dropped: int) -> None:
    """Prompt and system have 20 tokens, the answer 100. What is asked now is never dropped."""
    fitted = a_call("a", "b", "c").within(context)

    assert (told(fitted), fitted.turns_dropped) == (letters, dropped)
    assert fitted.within(context) == fitted


def test_turns_that_are_gone_are_counted_with_those_that_do_not_fit() -> None:
    assert a_call("a", "b", turns_dropped=4).within(150).turns_dropped == 5


def test_reasoning_takes_room_from_the_turns() -> None:
    assert a_call("a", max_reasoning_tokens=50).within(180).turns_dropped == 1


def test_results_that_come_with_the_prompt_keep_the_turn_of_their_calls() -> None:
    """The caller has just sent them; the turn before may go."""
    calls = Message(role="assistant", text="b", tool_calls=(ToolCall(call_id="1", name="f", arguments="{}" * 100),))
    result = Message(role="tool", text="r" * 100, tool_call_id="1")
    messages = (*exchange("a"), *user("b"), calls, result, *user(PROMPT))

    fitted = a_call(messages=messages).within(5)

    assert (told(fitted), fitted.turns_dropped) == ("bbrp", 1)
    assert fitted.within(5) == fitted
    assert told(a_call(messages=messages[2:-1]).within(5)) == "bbr", "results without a prompt"


def test_messages_before_the_first_prompt_belong_to_the_first_turn() -> None:
    greeting = Message(role="assistant", text="g" * 30)

    assert told(a_call(messages=(greeting, *exchange("a"), *user(PROMPT))).within(150)) == "gaap"
    assert told(a_call(messages=(greeting, *exchange("a"), *user(PROMPT))).within(149)) == "p"


@pytest.mark.parametrize(("context", "letters"), [(4_924, "aap"), (4_923, "p")])
def test_images_take_room_as_they_may_cost(context: int, letters: str) -> None:
    """4,784 tokens with Claude, in a turn of 20."""
    seen = Message(role="user", text="a" * 30, images=(Image(url="https://example.com/a.png"),))
    call = a_call(messages=(seen, Message(role="assistant", text="a" * 30), *user(PROMPT)))

    fitted = call.for_engine(an_engine(kind="anthropic")).within(context)

    assert told(fitted) == letters


def test_a_function_call_goes_with_its_turn() -> None:
    """Its result without the call would be refused by the engine."""
    call = ToolCall(call_id="1", name="f", arguments="{}" * 100)
    asked = Message(role="assistant", tool_calls=(call,))
    result = Message(role="tool", text="r", tool_call_id="1")
    messages = (*user("a"), asked, result, Message(role="assistant", text="a"), *exchange("b"), *user(PROMPT))

    assert told(a_call(messages=messages).within(165)) == "bbp"


def test_each_engine_is_told_what_fits_into_its_own_context(balanced: Balanced) -> None:
    """After a failover, the engine with the larger context is told more."""
    small, large = ScriptedEngine(EngineUnavailable("Busy.")), ScriptedEngine("Hello.")
    cheap = an_engine(context=150, source="local", price=None)
    balancer = balanced(small=(cheap, small), large=(an_engine(context=10_000), large))

    reply = balancer.call(a_call("a", "b", "c"), call_terms())

    assert [told(call) for call in small.calls + large.calls] == ["ccp", "aabbccp"]
    assert [attempt.turns_dropped for attempt in reply.attempts] == [2, 0]


def test_money_is_reserved_for_the_turns_that_are_told(balanced: Balanced) -> None:
    """1 micro-USD for each byte and for 64 tokens of the API, and 2 for each of 100 tokens out."""
    late = EngineUnavailable("Late.", kind="timeout", may_be_billed=True)
    balancer = balanced(only=(an_engine(context=150), ScriptedEngine(late)))
    call = a_call("a", "b", "c")

    foreseen = balancer.foresee(call, call_terms(budget=Budget(10**6)))
    reply = balancer.call(call, call_terms(budget=Budget(10**6)))

    microusd = 30 + 60 + 30 + 64 + 200
    assert foreseen is not None
    assert [foreseen.withheld_microusd, *(attempt.withheld_microusd for attempt in reply.attempts)] == [microusd] * 2


def test_an_engine_without_a_context_has_that_of_its_model_or_the_default() -> None:
    catalog = a_catalog({"api": an_engine(), "own": an_engine(context=9)}, context=77)
    (name, model), *_ = catalog.models.items()
    local = an_engine(kind="llamacpp", source="local", model=name, base_url=None, price=None)

    catalog = replace(catalog, engines={**catalog.engines, "local": local, "file": replace(local, model="m.gguf")})

    assert [catalog.context(engine) for engine in ("api", "own", "local", "file")] == [77, 9, model.context, 8192]
