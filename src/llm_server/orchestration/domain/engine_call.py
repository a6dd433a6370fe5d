"""One call of an engine, its completion, and the port that every engine's adapter has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.catalog import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSchema:
    """A JSON schema the answer must follow; `name` says what is asked for."""

    name: Literal["plan", "verdict"]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """One prompt for an engine. `max_output_tokens` is the most it may answer with."""

    system: str
    prompt: str
    max_output_tokens: int
    temperature: float = 0.3
    answer_schema: AnswerSchema | None = None
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An engine's answer; token counts it did not report are estimated and marked. `truncated`: the limit cut it."""

    text: str
    tokens_in: int
    tokens_out: int
    usage_estimated: bool = False
    truncated: bool = False


class Engine(Protocol):
    """Something that answers prompts."""

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        """Answer one prompt within `timeout_s` seconds; never retries by itself.

        Raises:
            EngineUnavailable: another engine may answer.
            PromptRefused: no engine will.
            TaskCancelled: the call's `cancellation` was told; the call is broken off as far as its wire allows.
        """
        ...


Pricer = Callable[[EngineSpec, int, int], int | None]
"""(engine, tokens in, tokens out) -> micro-USD, rounded up; None when nobody knows the model's price."""
