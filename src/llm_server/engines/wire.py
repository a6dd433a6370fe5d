"""What the wires share: asking for an answer that follows a schema, and reading what engines send back."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from llm_server.engines.failures import BadRequest, unusable_answer
from llm_server.orchestration.domain.engine_call import Completion, EngineCall
from llm_server.orchestration.domain.errors import EngineUnavailable, PromptRefused

MAX_TOKENS = 100_000_000
CHARACTERS_PER_TOKEN = 4
_BOUNDS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "pattern"})


class Wire(ABC):
    """An engine whose API may have a field of its own for an answer's schema.

    Whether it has one is not known beforehand. A call with the field that is refused as a bad request is made once
    more with the schema in the system text; when that is answered, the field is not used again. A refusal costs no
    tokens, and both calls share one time-out.
    """

    def __init__(self, *, schema_field: bool) -> None:
        self._schema_field = schema_field

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        if call.answer_schema is None:
            return self._ask(call, timeout_s)
        if not self._schema_field:
            return self._ask(_schema_in_text(call), timeout_s)
        started_s = time.monotonic()
        try:
            return self._ask(call, timeout_s)
        except BadRequest:
            completion = self._ask(_schema_in_text(call), timeout_s - (time.monotonic() - started_s))
            self._schema_field = False
            return completion

    @abstractmethod
    def _ask(self, call: EngineCall, timeout_s: float) -> Completion:
        """Make one exchange; a schema still on the call goes into the API's own field."""


def completion(
    call: EngineCall, text: str, *, tokens_in: int | None, tokens_out: int | None, truncated: bool
) -> Completion:
    """Make a completion; a count that is None was not reported and is estimated.

    Raises:
        EngineUnavailable: the text is not valid Unicode (half of a surrogate pair), so it could not be stored.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise unusable_answer("The engine's answer is no Unicode.") from error
    return Completion(
        text=text,
        tokens_in=estimated_tokens(call.system + call.prompt) if tokens_in is None else tokens_in,
        tokens_out=estimated_tokens(text) if tokens_out is None else tokens_out,
        usage_estimated=tokens_in is None or tokens_out is None,
        truncated=truncated,
    )


def declined(tokens_in: int | None, tokens_out: int | None) -> PromptRefused:
    """The failure of an engine that declined to answer; the counts are what it bills, None where it does not say."""
    return PromptRefused(
        "The engine declined to answer this prompt.",
        tokens_in=tokens_in or 0,
        tokens_out=tokens_out or 0,
        may_be_billed=tokens_in is None or tokens_out is None,
    )


def no_completion() -> EngineUnavailable:
    """The failure of an engine whose answer has nothing where the completion should be."""
    return unusable_answer("The engine's answer holds no completion.")


def estimated_tokens(text: str) -> int:
    """Four ASCII characters a token, the rule of thumb for English text, and one of any other script; rounded up."""
    plain = len(text.encode("ascii", "ignore"))
    return -(-plain // CHARACTERS_PER_TOKEN) + len(text) - plain


def json_object(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def json_objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list; [] if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def joined_texts(parts: Any) -> str:
    """The `text` of each part of a message, joined; parts without one are left out."""
    return "".join(part["text"] for part in json_objects(parts) if isinstance(part.get("text"), str))


def token_count(value: Any) -> int | None:
    """The value if it can be a number of tokens, else None: an absurd one would spoil the sums for good."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def without_bounds(schema: Any) -> Any:
    """Leave out of a schema what constrained decoding often refuses: bounds on lists, texts and numbers."""
    if isinstance(schema, Mapping):
        return {
            key: {name: without_bounds(of) for name, of in value.items()}
            if key == "properties"
            else without_bounds(value)
            for key, value in schema.items()
            if key not in _BOUNDS
        }
    return [without_bounds(item) for item in schema] if isinstance(schema, list | tuple) else schema


def _schema_in_text(call: EngineCall) -> EngineCall:
    if call.answer_schema is None:
        return call
    schema = msgspec.json.encode(call.answer_schema.schema).decode()
    demand = f"Answer with one JSON object and nothing else. It follows this JSON schema:\n{schema}"
    return replace(call, system=f"{call.system}\n\n{demand}".lstrip(), answer_schema=None)
