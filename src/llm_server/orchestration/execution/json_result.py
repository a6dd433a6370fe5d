"""Read the result of a task with an output schema from an engine's answer, and check it against the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from llm_server.orchestration.dispatch.terms import Rejection
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.message import Message
from llm_server.orchestration.domain.engines.usage import CHARACTERS_PER_TOKEN
from llm_server.orchestration.domain.result_schema import validation

_MAX_LOOSE = 200
"""The search ends after this many brackets that did not begin JSON, because each attempt takes time."""
_FENCE = re.compile(r"^ {0,3}```[^\n`]*\n(.*?)^ {0,3}```[ \t]*$", re.DOTALL | re.MULTILINE)
_OPENING = re.compile(r"[{\[]")


class NoResult(Exception):
    """The answer has not exactly one JSON value; the message says what it has."""


def accept(schema: Mapping[str, Any], call: EngineCall, completion: Completion) -> Completion | Rejection:
    """Return the completion with its JSON text alone if that follows the schema; otherwise what is wrong with it.

    An answer with tool calls comes before the result, so it is returned unchanged.
    """
    if completion.tool_calls:
        return completion
    try:
        text, value = only_json(completion.text)
        faults = validation.faults(schema, value)
    except NoResult as error:
        text, faults = "", [str(error)]
    if not faults:
        return replace(completion, text=text)
    if completion.truncated:
        return Rejection(
            fault=f"schema: cut off, {faults[0]}",
            error="The result does not follow output_schema: the answer was cut off at its limit. Raise "
            "limits.max_output_tokens.",
        )
    return Rejection(
        fault=f"schema: {faults[0]}",
        error=f"The result does not follow output_schema: {faults[0]}.",
        repair=_repair(call, completion.text, faults),
    )


def only_json(answer: str) -> tuple[str, Any]:
    """Return the JSON text in an answer, which may wrap it in prose or in one code fence, and its value.

    Raises:
        NoResult: the answer has no JSON value, or more than one.
    """
    whole = answer.strip()
    fenced = [match[1].strip() for match in _FENCE.finditer(whole)]
    for text in [whole, *fenced] if len(fenced) == 1 else [whole]:
        try:
            return text, _DECODER.decode(text)
        except ValueError:
            continue
        except RecursionError:
            raise NoResult("the JSON is nested too deeply") from None
    found = _values(whole)
    if len(found) != 1:
        raise NoResult("the answer has more than one JSON value" if found else "the answer is not valid JSON")
    return found[0]


def _values(text: str) -> list[tuple[str, Any]]:
    """Return the first two JSON objects and arrays in a text, without those inside others."""
    found, at, loose = list[tuple[str, Any]](), 0, 0
    while len(found) < 2 and loose < _MAX_LOOSE and (opening := _OPENING.search(text, at)):
        start = opening.start()
        try:
            value, at = _DECODER.raw_decode(text, start)
        except RecursionError:
            raise NoResult("the JSON is nested too deeply") from None
        except ValueError:
            at, loose = start + 1, loose + 1
        else:
            found.append((text[start:at], value))
    return found


def largest_repair(call: EngineCall) -> EngineCall:
    """Return a call that is as long as the longest one that asks for a repair of an answer to `call`."""
    longest = "\N{MUSICAL SYMBOL G CLEF}" * validation.MAX_FAULT_CHARS
    return _repair(call, "x" * _max_shown_bytes(call), [longest] * validation.MAX_FAULTS)


def _max_shown_bytes(call: EngineCall) -> int:
    """Return how much of an invalid answer is shown; answers of so many tokens are rarely longer."""
    return call.max_output_tokens * CHARACTERS_PER_TOKEN


def _repair(call: EngineCall, answer: str, faults: list[str]) -> EngineCall:
    """Return the call that asks for the whole JSON again: the same conversation, the invalid answer and its faults."""
    listed = "\n".join(f"- {fault}" for fault in faults)
    fenced = answer.replace("</last_answer>", "< /last_answer>")
    fenced = fenced.encode()[: _max_shown_bytes(call)].decode(errors="ignore")
    demand = (
        f"Your last answer does not follow the JSON schema:\n{listed}\n\n<last_answer>\n{fenced}\n</last_answer>\n\n"
        "Send the whole JSON again, repaired, and nothing else."
    )
    return replace(call, messages=_appended(call.messages, demand))


def _appended(messages: tuple[Message, ...], demand: str) -> tuple[Message, ...]:
    """Return the messages with a demand at their end; if the last one is the user's, inside it, as one turn."""
    if not messages or messages[-1].role != "user":
        return (*messages, Message(role="user", text=demand))
    *earlier, last = messages
    return (*earlier, replace(last, text=f"{last.text}\n\n{demand}"))


def _not_json(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(text)
    return number


_DECODER = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)
