"""Shared parts of the adapters: asking for an answer that follows a schema, and reading the answers."""

from __future__ import annotations

import logging
import secrets
import time
from abc import ABC, abstractmethod
from typing import Any

import msgspec
from msgspec.structs import replace

from llm_server.engines.answer_schemas import demands_object, in_text
from llm_server.engines.failures import BadRequest, unusable_answer
from llm_server.engines.streams.shown_text import ShownText, end_of
from llm_server.engines.usage import ReportedUsage
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec, StructuredOutput
from llm_server.orchestration.domain.engines.message import ToolCall
from llm_server.orchestration.domain.engines.usage import estimate_tokens
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused

_log = logging.getLogger(__name__)


class Wire(ABC):
    """Base class of engines whose API may have a field for the answer's schema.

    If the engine answers a call that uses this field with "bad request", the call is made again with the schema in the
    system prompt: first with the demand for a JSON object, if the API has one (`has_json_object`), then without. What
    succeeds is used from then on, unless the schema is a caller's: the API may take others. The refused calls cost no
    tokens, and all of them share one time-out.

    An answer is cut at the first of the engine's `stop_texts`, because not every server does that itself. A call with
    `on_text` is streamed; an engine that answers it whole gives the text in one piece.
    """

    has_json_object = False

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self.structured_output: StructuredOutput = spec.structured_output

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        if call.on_text is None:
            return _ended(self._complete(call, timeout_s), self._spec)
        shown = ShownText(self._spec, call.on_text)
        completion = _ended(self._complete(replace(call, on_text=shown.take), timeout_s), self._spec)
        shown.finish(completion.text)
        return completion

    def _complete(self, call: EngineCall, timeout_s: float) -> Completion:
        if call.answer_schema is None:
            return self._ask(call, timeout_s)
        started_s = time.monotonic()
        *others, last = self._ways(call)
        for way in others:
            try:
                completion = self._ask(self._asked(call, way), timeout_s - (time.monotonic() - started_s))
            except BadRequest:
                continue
            self._learn(call, way)
            return completion
        completion = self._ask(self._asked(call, last), timeout_s - (time.monotonic() - started_s))
        self._learn(call, last)
        return completion

    def _ways(self, call: EngineCall) -> list[StructuredOutput]:
        """Return how an answer that follows the call's schema can be asked for, the best first."""
        ways: list[StructuredOutput] = ["json_schema", "json_object", "none"]
        ways = ways[ways.index(self.structured_output) :]
        is_object = self.has_json_object and demands_object(call)
        return [way for way in ways if way != "json_object" or is_object]

    def _asked(self, call: EngineCall, way: StructuredOutput) -> EngineCall:
        return call if way == "json_schema" else in_text(call, json_object=way == "json_object")

    def _learn(self, call: EngineCall, way: StructuredOutput) -> None:
        """Remember what the API takes, if a schema of the server has shown it."""
        if way != self.structured_output and call.answer_schema and not call.answer_schema.is_callers:
            _log.warning("structured output refused", extra={"model": self._spec.model, "used": way})
            self.structured_output = way

    @abstractmethod
    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        """Make one exchange; if the call has a schema, put it into the API's field for it.

        If the call has `on_text`, pass it the pieces of the text as they come. It may be left out for a last part.
        """


def completion(
    call: EngineCall,
    text: str,
    reported: ReportedUsage,
    *,
    truncated: bool,
    tool_calls: tuple[ToolCall, ...] = (),
) -> Completion:
    """Make a completion; estimate token counts that the engine did not report.

    Raises:
        EngineUnavailable: a text has a lone surrogate, so it could not be stored.
    """
    written = "".join([text, *(each.name + each.arguments for each in tool_calls)])
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise unusable_answer("The engine's answer is not valid Unicode.") from error
    tokens_in = estimate_tokens(call.texts) + call.image_tokens
    usage = reported.completed(tokens_in=tokens_in, tokens_out=estimate_tokens(written))
    return Completion(text=text, usage=usage, truncated=truncated, tool_calls=tool_calls)


def refusal(reported: ReportedUsage) -> PromptRefused:
    """Return the failure for an engine that declined to answer; the counts that it reported are billed."""
    usage = replace(reported.completed(tokens_in=0, tokens_out=0), estimated=False)
    may_be_billed = not reported.is_complete
    return PromptRefused("The engine declined to answer this prompt.", usage=usage, may_be_billed=may_be_billed)


def missing_completion() -> EngineUnavailable:
    """Return the failure for an answer that contains no completion where its API defines one."""
    return unusable_answer("The engine's answer contains no completion.")


def json_object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def json_objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects of a list; [] if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def join_texts(parts: Any) -> str:
    """Return the `text` of all parts of a message, joined; parts without a text are left out."""
    return "".join(part["text"] for part in json_objects(parts) if isinstance(part.get("text"), str))


def tool_call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    """Return a function call as an engine wrote it; its arguments need not be JSON, nor follow the tool's schema.

    A call without an id gets one, because its result must name it.

    Raises:
        EngineUnavailable: the call has no name.
    """
    if not isinstance(name, str) or not name:
        raise unusable_answer("The engine's answer has a function call without a name.")
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
    known = call_id if isinstance(call_id, str) and call_id else f"call_{secrets.token_hex(12)}"
    return ToolCall(call_id=known, name=name, arguments=text or "{}")


def private_texts(call: EngineCall) -> list[str]:
    """Return the texts of a call that an engine's error message must not show.

    The data of images is not among them: nearly every short word is somewhere in it, so no message could be shown.
    """
    calls = (asked.arguments for message in call.messages for asked in message.tool_calls)
    images = (image.url for message in call.messages for image in message.images)
    tools = (tool.description for tool in call.tools)
    return [*(message.text for message in call.messages), *calls, *images, *tools]


def decoded_object(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object that an engine sent. Raises EngineUnavailable if it is not one."""
    try:
        answer = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise unusable_answer("The engine's answer is not JSON.") from error
    if not isinstance(answer, dict):
        raise unusable_answer("The engine's answer is not a JSON object.")
    return answer


def _ended(completion: Completion, spec: EngineSpec) -> Completion:
    """Return the completion up to the first text that ends an answer of this engine; it is whole, so not truncated."""
    end = end_of(completion.text, spec)
    return completion if end is None else replace(completion, text=completion.text[:end], truncated=False)
