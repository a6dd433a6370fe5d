"""Shared parts of the adapters: asking for an answer that follows a schema, and reading the answers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from msgspec.structs import replace

from llm_server.engines.answer_schemas import in_text
from llm_server.engines.failures import BadRequest, unusable_answer
from llm_server.engines.usage import ReportedUsage
from llm_server.orchestration.domain.engines.call import Completion, EngineCall
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.usage import estimate_tokens
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused


class Wire(ABC):
    """Base class of engines whose API may have a field for the answer's schema.

    If the engine answers a call that uses this field with "bad request", the call is made once more with the schema in
    the system prompt instead. If that succeeds, the field is not used again. The refused call costs no tokens, and both
    calls share one time-out.

    An answer is cut at the first of the engine's `stop_texts`, because not every server does that itself.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._schema_field = spec.json_schema

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        return _ended(self._complete(call, timeout_s), self._spec)

    def _complete(self, call: EngineCall, timeout_s: float) -> Completion:
        if call.answer_schema is None:
            return self._ask(call, timeout_s)
        if not self._schema_field:
            return self._ask(in_text(call), timeout_s)
        started_s = time.monotonic()
        try:
            return self._ask(call, timeout_s)
        except BadRequest:
            completion = self._ask(in_text(call), timeout_s - (time.monotonic() - started_s))
            self._schema_field = False
            return completion

    @abstractmethod
    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        """Make one exchange; if the call has a schema, put it into the API's field for it."""


def completion(call: EngineCall, text: str, reported: ReportedUsage, *, truncated: bool) -> Completion:
    """Make a completion; estimate token counts that the engine did not report.

    Raises:
        EngineUnavailable: the text has a lone surrogate, so it could not be stored.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unusable_answer("The engine's answer is not valid Unicode.") from error
    tokens_in, tokens_out = estimate_tokens(call.texts), estimate_tokens(text)
    usage = reported.completed(tokens_in=tokens_in, tokens_out=tokens_out)
    return Completion(text=text, usage=usage, truncated=truncated)


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


def _ended(completion: Completion, spec: EngineSpec) -> Completion:
    """Return the completion up to the first text that ends an answer of this engine; it is whole, so not truncated."""
    ends = [at for text in spec.stop_texts if (at := completion.text.find(text)) >= 0]
    if spec.is_small:
        ends += _llama_end(completion.text)
    return replace(completion, text=completion.text[: min(ends)], truncated=False) if ends else completion


def _llama_end(text: str) -> list[int]:
    """Return where the first `</s>` is, the end of an answer of Llama 2 and Mistral; [] if it closes an HTML `<s>`."""
    before, mark, _ = text.partition("</s>")
    return [len(before)] if mark and "<s>" not in before else []
