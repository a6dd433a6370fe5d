"""A task with an output schema ends with JSON that follows it, or fails; an invalid answer is repaired once."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from llm_server.orchestration.dispatch.terms import Rejection
from llm_server.orchestration.domain.conversation import History
from llm_server.orchestration.domain.engines.call import AnswerSchema
from llm_server.orchestration.domain.engines.message import Message, ToolCall, user
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused
from llm_server.orchestration.domain.snapshot import Limits, Snapshot
from llm_server.orchestration.domain.status import Mode, Status
from llm_server.orchestration.execution.json_result import NoResult, accept, only_json
from support.deliveries import Deliveries, accepted, planning
from support.scripted_engine import Clock, ScriptedEngine, WatchedStore, a_catalog, a_completion, an_engine

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
VALID = '{"n": 3}'
FAULT = 'schema: at /n: type "integer"'
INVALID = '{"n": "private"}'
ERROR = 'The result does not follow output_schema: at /n: type "integer".'


def asked(mode: Mode = Mode.CHAT, **limits: Any) -> Snapshot:
    return accepted(mode, limits=Limits(**limits), output_schema=SCHEMA)


def faults(deliveries: Deliveries) -> list[str | None]:
    (progress,) = deliveries.given
    assert progress.output
    return [attempt.fault for attempt in progress.output.attempts]


@pytest.mark.parametrize(
    "answer",
    [
        VALID,
        f" {VALID}\n",
        f"```json\n{VALID}\n```",
        f"Here it is:\n\n```\n{VALID}\n```\nI hope it helps.",
        f"Here it is: {VALID} I hope it helps.",
        f"The set {{a, b}} is not JSON. {VALID}",
    ],
)
def test_the_result_is_the_json_alone(watched: WatchedStore, clock: Clock, answer: str) -> None:
    """A code fence or prose around it is taken off, and the engine is not asked again."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(answer))
    ended = deliveries.deliver(asked())

    assert (ended.task.status, ended.result) == (Status.COMPLETED, VALID)
    (call,) = deliveries.engine.calls
    assert call.answer_schema == AnswerSchema(name="answer", schema=SCHEMA)
    assert call.prompt == "Build it."
    assert faults(deliveries) == [None]


@pytest.mark.parametrize("mode", [Mode.CHAT, Mode.AGENT])
def test_an_invalid_answer_is_repaired_once(watched: WatchedStore, clock: Clock, mode: Mode) -> None:
    """The same engine gets the prompt again, the answer, and what is wrong with it."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(INVALID, VALID))
    ended = deliveries.deliver(asked(mode))

    assert (ended.task.status, ended.result) == (Status.COMPLETED, VALID)
    first, second = deliveries.engine.calls
    assert second.prompt.startswith(f"{first.prompt}\n\n")
    assert '- at /n: type "integer"' in second.prompt
    assert INVALID in second.prompt
    assert second.answer_schema == first.answer_schema
    assert faults(deliveries) == [FAULT, None]
    assert [a.why for p in deliveries.given if p.output for a in p.output.attempts][1] == "repair of the answer"
    assert ended.task.receipt.calls == 2


def test_after_the_repair_another_engine_is_asked(watched: WatchedStore, clock: Clock) -> None:
    """It gets the first prompt, without the answers of the other engine, and may repair its own answer once."""
    other = ScriptedEngine("No JSON.", VALID)
    deliveries = Deliveries(watched, clock, ScriptedEngine(INVALID), other=(an_engine(), other))
    ended = deliveries.deliver(asked())

    assert (ended.task.status, ended.result, ended.task.engine) == (Status.COMPLETED, VALID, "other")
    assert other.calls[0].prompt == "Build it."
    assert "not valid JSON" in other.calls[1].prompt
    assert "private" not in other.calls[1].prompt
    assert len(deliveries.engine.calls) == 2
    assert faults(deliveries) == [FAULT, FAULT, "schema: the answer is not valid JSON", None]


def test_at_most_four_calls_are_made(watched: WatchedStore, clock: Clock) -> None:
    """Two engines answer and repair; a third one is not asked."""
    second, third = ScriptedEngine(INVALID), ScriptedEngine(VALID)
    deliveries = Deliveries(
        watched, clock, ScriptedEngine(INVALID), other=(an_engine(), second), third=(an_engine(), third)
    )
    ended = deliveries.deliver(asked())

    assert (ended.task.status, ended.task.error) == (Status.FAILED, ERROR)
    assert [len(engine.calls) for engine in (deliveries.engine, second, third)] == [2, 2, 0]


@pytest.mark.parametrize("failing", [1, 2])
def test_engines_that_fail_leave_a_call_for_the_repair(watched: WatchedStore, clock: Clock, failing: int) -> None:
    """Failed calls count, too: after two of them, the third engine answers and repairs."""
    down = [ScriptedEngine(EngineUnavailable("Down.", outage=True)) for _ in range(failing)]
    healthy = [ScriptedEngine(INVALID, VALID) for _ in range(3 - failing)]
    second, third = [*down, *healthy][1:]
    deliveries = Deliveries(watched, clock, down[0], other=(an_engine(), second), third=(an_engine(), third))
    ended = deliveries.deliver(asked())

    assert (ended.task.status, ended.result) == (Status.COMPLETED, VALID)
    assert faults(deliveries) == [None] * failing + [FAULT, None]


def test_after_three_failed_calls_no_other_engine_is_asked(watched: WatchedStore, clock: Clock) -> None:
    """The fourth call is for tasks whose engines answer."""
    engines = [ScriptedEngine(EngineUnavailable("Down.", outage=True)) for _ in range(4)]
    first, *others = engines
    b, c, d = ((an_engine(), engine) for engine in others)
    Deliveries(watched, clock, first, b=b, c=c, d=d).deliver(asked())

    assert sum(len(engine.calls) for engine in engines) == 3


@pytest.mark.parametrize("text", ["", "I look it up.", INVALID])
def test_an_answer_with_tool_calls_is_no_result_to_check(watched: WatchedStore, clock: Clock, text: str) -> None:
    """The result comes after the tools have answered."""
    wanted = ToolCall(call_id="c1", name="look_up", arguments="{}")
    engine = ScriptedEngine(replace(a_completion(text), tool_calls=(wanted,)))
    deliveries = Deliveries(watched, clock, engine)
    ended = deliveries.deliver(asked())

    assert ended.task.status is Status.COMPLETED
    assert len(engine.calls) == 1
    assert faults(deliveries) == [None]


def test_a_name_that_is_not_valid_unicode_is_shown_in_part(watched: WatchedStore, clock: Clock) -> None:
    """Half a surrogate pair can neither be sent nor stored."""
    schema = {"additionalProperties": {"type": "null"}}
    engine = ScriptedEngine('{"\\ud800": 1}')
    ended = Deliveries(watched, clock, engine).deliver(accepted(output_schema=schema))

    assert ended.task.error == 'The result does not follow output_schema: at /?: type "null".'
    assert len(engine.calls) == 2


def test_of_a_long_answer_only_the_beginning_is_shown_for_the_repair(watched: WatchedStore, clock: Clock) -> None:
    """What a repair costs at most is known before the task is carried out."""
    engine = ScriptedEngine("é" * 1_000, VALID)
    Deliveries(watched, clock, engine).deliver(asked(max_output_tokens=100))

    assert engine.calls[1].prompt.count("é") == 200


def test_an_engine_without_room_for_the_schema_is_not_asked(watched: WatchedStore, clock: Clock) -> None:
    """It would have to read the schema in its prompt. An engine that takes the schema in a field may be asked."""
    small = an_engine(structured_output="none", context=5_000)
    schema = SCHEMA | {"description": "x" * 20_000}
    first, second = ScriptedEngine(VALID), ScriptedEngine(VALID)
    catalog = a_catalog({"only": small, "other": an_engine(structured_output="json_schema", context=5_000)})
    deliveries = Deliveries(watched, clock, first, catalog=catalog, other=(catalog.engines["other"], second))

    assert deliveries.deliver(accepted(output_schema=schema)).result == VALID
    assert (len(first.calls), len(second.calls)) == (0, 1)

    alone = Deliveries(watched, clock, first, catalog=a_catalog({"only": small}))
    ended = alone.deliver(accepted(output_schema=schema))
    assert ended.task.status is Status.FAILED
    assert ended.task.error is not None
    assert ended.task.error.startswith("The prompt with output_schema is too long for every engine")
    assert first.calls == []
    assert alone.deliver(accepted(output_schema=SCHEMA)).result == VALID


def test_the_demand_for_a_repair_ends_the_messages(watched: WatchedStore, clock: Clock) -> None:
    """The earlier turns come before the prompt, and are no part of the last message."""
    history = History(messages=(*user("Before."), Message(role="assistant", text="Yes.")))
    engine = ScriptedEngine(INVALID, VALID)
    Deliveries(watched, clock, engine).deliver(replace(asked(), history=history))

    first, second = engine.calls
    assert [message.text for message in first.messages] == ["Before.", "Yes.", "Build it."]
    assert second.messages[:2] == first.messages[:2]
    assert second.prompt.startswith("Build it.\n\nYour last answer")

    tools = (*first.messages, Message(role="assistant", text="Wait."), Message(role="tool", text="5"))
    read = accept(SCHEMA, replace(first, messages=tools), a_completion(INVALID))
    assert isinstance(read, Rejection)
    assert read.repair is not None
    assert read.repair.messages[:-1] == tools
    assert read.repair.messages[-1].text.startswith("Your last answer")


def test_a_strong_engine_is_asked_before_a_cheap_one(watched: WatchedStore, clock: Clock) -> None:
    """It is the escalation that a faulty answer without a schema gets."""
    catalog = {name: an_engine(tier=tier) for name, tier in (("only", "fast"), ("other", "fast"), ("strong", "strong"))}
    cheap, strong = ScriptedEngine(VALID), ScriptedEngine(VALID)
    deliveries = Deliveries(
        watched,
        clock,
        ScriptedEngine(INVALID),
        catalog=a_catalog(catalog),
        other=(catalog["other"], cheap),
        strong=(catalog["strong"], strong),
    )

    assert deliveries.deliver(asked()).task.engine == "strong"
    assert cheap.calls == []


def test_without_a_valid_answer_the_task_fails(watched: WatchedStore, clock: Clock) -> None:
    """The error names the violation; an invalid result is never stored as a result. There is no later try."""
    other = ScriptedEngine("No JSON here.")
    deliveries = Deliveries(watched, clock, ScriptedEngine(INVALID), other=(an_engine(), other))
    ended = deliveries.deliver(asked())

    assert (ended.task.status, ended.result) == (Status.FAILED, None)
    assert ended.task.error == "The result does not follow output_schema: the answer is not valid JSON."
    assert (len(deliveries.engine.calls), len(other.calls)) == (2, 2)
    assert "private" not in str(ended.task)


@pytest.mark.parametrize(
    "failure",
    [PromptRefused("Too long."), ""],
    ids=["refused", "empty"],
)
def test_a_repair_that_fails_leaves_the_violation(
    watched: WatchedStore, clock: Clock, failure: Exception | str
) -> None:
    """The prompt with the invalid answer in it was refused, not the task itself."""
    engine = ScriptedEngine(INVALID, failure)
    ended = Deliveries(watched, clock, engine).deliver(asked())

    assert (ended.task.status, ended.task.error) == (Status.FAILED, ERROR)
    assert len(engine.calls) == 2


def test_a_repair_that_the_engine_was_down_for_is_made_later(watched: WatchedStore, clock: Clock) -> None:
    """As after any failure of an engine, the task waits. The delivery counts, because a call was paid for."""
    engine = ScriptedEngine(INVALID, EngineUnavailable("Down.", outage=True), VALID)
    deliveries = Deliveries(watched, clock, engine)
    put_off = deliveries.deliver(asked())
    assert (put_off.task.status, put_off.task.deliveries) == (Status.QUEUED, 1)
    assert faults(deliveries) == [FAULT, None]

    clock.pass_s(600)
    assert deliveries.deliver(put_off).result == VALID


def test_no_repair_is_made_that_could_exceed_the_limit(watched: WatchedStore, clock: Clock) -> None:
    """The limit is enough for the first call and what it cost, but not for a second one with a longer prompt."""
    deliveries = Deliveries(watched, clock, ScriptedEngine(INVALID))
    ended = deliveries.deliver(asked(max_cost_usd=0.0011, max_output_tokens=20))

    assert ended.task.status is Status.FAILED
    assert ended.task.error is not None
    assert ended.task.error.startswith(f"{ERROR} ")
    assert "max_cost_usd" in ended.task.error
    assert len(deliveries.engine.calls) == 1


def test_an_answer_that_was_cut_off_is_not_repaired(watched: WatchedStore, clock: Clock) -> None:
    """It would be cut off again."""
    engine = ScriptedEngine(a_completion('{"n": [1, 2', truncated=True))
    ended = Deliveries(watched, clock, engine).deliver(asked(max_output_tokens=20))

    assert ended.task.error == (
        "The result does not follow output_schema: the answer was cut off at its limit. Raise limits.max_output_tokens."
    )
    assert len(engine.calls) == 1


def test_the_callers_output_limit_holds_with_a_schema(watched: WatchedStore, clock: Clock) -> None:
    """Only plans and verdicts get more."""
    engine = ScriptedEngine(VALID)
    Deliveries(watched, clock, engine).deliver(asked(max_output_tokens=7))
    Deliveries(watched, clock, engine).deliver(asked())

    assert [call.max_output_tokens for call in engine.calls] == [7, 4096]


def test_the_synthesis_of_a_plan_follows_the_schema(watched: WatchedStore, clock: Clock) -> None:
    """The steps are free text."""
    engine = planning(synthesis=VALID)
    deliveries = Deliveries(watched, clock, engine)

    def answer(call: Any) -> Any:
        return (
            VALID if call.answer_schema and call.answer_schema.name == "answer" else engine.complete(call, timeout_s=1)
        )

    deliveries = Deliveries(watched, clock, ScriptedEngine(answer))
    ended = deliveries.deliver(asked(Mode.PLAN))

    assert (ended.task.status, ended.result) == (Status.COMPLETED, VALID)
    kinds = [call.answer_schema.name if call.answer_schema else None for call in deliveries.engine.calls]
    assert (kinds[0], kinds[-1]) == ("plan", "answer")
    assert set(kinds[1:-1]) == {None}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "not valid JSON"),
        ("Sorry.", "not valid JSON"),
        ('{"a": 1} {"b": 2}', "more than one"),
        ("[1] and [2]", "more than one"),
        ('{"a": NaN}', "not valid JSON"),
        ("1e999", "not valid JSON"),
        ("[" * 100_000, "JSON"),
        ("{" * 100_000, "JSON"),
        ('{"a": 1', "not valid JSON"),
    ],
)
def test_an_answer_without_exactly_one_value_has_no_result(answer: str, reason: str) -> None:
    """Which of two values is meant cannot be known."""
    with pytest.raises(NoResult, match=reason):
        only_json(answer)


@pytest.mark.parametrize("text", ["5", "null", '"a"', "[]", '[{"a": 1}]', '"```"', "-0.5e3", '{"a": "```\\n1\\n```"}'])
def test_any_json_value_can_be_a_result(text: str) -> None:
    """The text stays as the engine wrote it."""
    assert only_json(f"\n{text} ") == (text, json.loads(text))


def test_tasks_without_a_schema_do_not_import_the_validator() -> None:
    """It takes long to import, and a cold start of a Lambda function would pay for it."""
    script = (
        "import sys, llm_server.wiring, llm_server.engines.embedded, llm_server.orchestration.execution.orchestrator\n"
        "import llm_server.orchestration.tasks.worker, llm_server.orchestration.tasks.intake, llm_server.api.app\n"
        "sys.exit(bool({'jsonschema', 'referencing', 'rpds'} & sys.modules.keys()))"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
