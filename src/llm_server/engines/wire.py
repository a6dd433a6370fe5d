"""Shared parts of the adapters: asking for an answer that follows a schema, and reading the answers."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from llm_server.engines.answer_schemas import in_text
from llm_server.engines.failures import BadRequest, unusable_answer
from llm_server.orchestration.domain.catalog import EngineSpec
from llm_server.orchestration.domain.engine_call import Completion, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused

MAX_TOKENS = 100_000_000
CHARACTERS_PER_TOKEN = 4


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


def completion(
    call: EngineCall, text: str, *, tokens_in: int | None, tokens_out: int | None, truncated: bool
) -> Completion:
    """Make a completion; estimate token counts that the engine did not report (None).

    Raises:
        EngineUnavailable: the text has a lone surrogate, so it could not be stored.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unusable_answer("The engine's answer is not valid Unicode.") from error
    return Completion(
        text=text,
        tokens_in=estimate_tokens(call.system + call.prompt) if tokens_in is None else tokens_in,
        tokens_out=estimate_tokens(text) if tokens_out is None else tokens_out,
        usage_estimated=tokens_in is None or tokens_out is None,
        truncated=truncated,
    )


def refusal(tokens_in: int | None, tokens_out: int | None) -> PromptRefused:
    """Return the failure for an engine that declined to answer; the counts are billed, and None if not reported."""
    return PromptRefused(
        "The engine declined to answer this prompt.",
        tokens_in=tokens_in or 0,
        tokens_out=tokens_out or 0,
        may_be_billed=tokens_in is None or tokens_out is None,
    )


def missing_completion() -> EngineUnavailable:
    """Return the failure for an answer that contains no completion where its API defines one."""
    return unusable_answer("The engine's answer contains no completion.")


def estimate_tokens(text: str) -> int:
    """Estimate tokens: one for four ASCII characters (usual for English), one for any other character; rounded up."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_characters / CHARACTERS_PER_TOKEN) + len(text) - ascii_characters


def json_object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def json_objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects of a list; [] if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def join_texts(parts: Any) -> str:
    """Return the `text` of all parts of a message, joined; parts without a text are left out."""
    return "".join(part["text"] for part in json_objects(parts) if isinstance(part.get("text"), str))


def token_count(value: Any) -> int | None:
    """Return the value if it is a possible number of tokens, else None, so that nonsense cannot spoil the totals."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


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
