"""One call of an engine, its completion, and the port that every engine adapter implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from llm_server.orchestration.domain.cancellation import Cancellation
from llm_server.orchestration.domain.engines import image_tokens
from llm_server.orchestration.domain.engines.catalog import EngineSpec
from llm_server.orchestration.domain.engines.message import Message, Tool, ToolCall, ToolChoice
from llm_server.orchestration.domain.engines.usage import Usage, estimate_tokens

ESTIMATE_FACTOR = 4 / 3
"""Estimated tokens are too few for code and for languages other than English, and a prompt too long is refused."""


class AnswerSchema(Struct, frozen=True, kw_only=True):
    """A JSON schema that the answer must follow. `name` is the kind of answer; "answer" is the caller's schema."""

    name: Literal["plan", "verdict", "triage", "answer"]
    schema: Mapping[str, Any]

    @property
    def is_callers(self) -> bool:
        return self.name == "answer"


class SmallVariant(Struct, frozen=True, kw_only=True):
    """What a small engine gets in place of a call's system prompt and output limit."""

    system: str
    max_output_tokens: int


class EngineCall(Struct, frozen=True, kw_only=True):
    """One call of an engine: what to send, the settings, and the maximum number of tokens of the answer.

    The model may ask for calls of the `tools`; None as `tool_choice` leaves it to the engine whether it does.

    `on_text` is called with each piece of the answer's text as it comes; the pieces together are the text of the
    completion. If it is None, the answer comes whole. What `on_text` raises ends the call. It must not block, because
    it may be called on the thread that reads all streams, but never by two threads at once, nor after the call.

    `json_object`: the answer is a JSON object that follows a schema in the prompt.

    `max_reasoning_tokens` is how many tokens the model may think in addition to `max_output_tokens`. It is 0 for
    engines whose output limit includes the reasoning.

    All messages before the last one of the user are earlier turns; `turns_dropped` more of them are not told. Results
    of function calls right before it belong to it, with the turn of their calls.

    `tokens_per_image` is the most that an image costs with the engine of the call; before it is known, with any engine.

    The engine is chosen after the call was made, so a call carries its variant for small engines in `small`. An engine
    gets what `for_engine` returns.
    """

    system: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    max_reasoning_tokens: int = 0
    temperature: float = 0.3
    answer_schema: AnswerSchema | None = None
    json_object: bool = False
    small: SmallVariant | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    on_text: Callable[[str], None] | None = None
    turns_dropped: int = 0
    tokens_per_image: int = image_tokens.MAX_TOKENS
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def prompt(self) -> str:
        """The text of the user's last message; empty without one."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def texts(self) -> str:
        """Everything that the model reads as text, except tools and schema."""
        return "".join([self.system, *(message.texts for message in self.messages)])

    @property
    def image_tokens(self) -> int:
        """The most tokens that the images of all messages cost."""
        return self.tokens_per_image * sum(len(message.images) for message in self.messages)

    @property
    def _least_tokens(self) -> int:
        """The tokens of the call without its messages, as many as they may be: system prompt, schema and answer."""
        schema = msgspec.json.encode(self.answer_schema.schema).decode() if self.answer_schema else ""
        return self.max_output_tokens + self.max_reasoning_tokens + _tokens(self.system) + _tokens(schema)

    def fits(self, context: int) -> bool:
        """Return whether the call with its last turn fits into a context of so many tokens."""
        whole = self.within(context)
        return self._least_tokens + sum(map(self._size, whole.messages)) <= context

    def for_engine(self, spec: EngineSpec) -> EngineCall:
        """Return the call as this engine gets it. Calling this again has no further effect."""
        call = replace(self, tokens_per_image=image_tokens.most(spec)) if self.image_tokens else self
        if call.small is None:
            return call
        if not spec.is_small:
            return replace(call, small=None)
        return replace(call, system=call.small.system, max_output_tokens=call.small.max_output_tokens, small=None)

    def within(self, context: int) -> EngineCall:
        """Return the call without the oldest turns that do not fit into a context of so many tokens, with the answer.

        A turn goes whole: the user's message and all that follow it, up to the next one. Calling this again has no
        further effect.
        """
        starts = [n for n, message in enumerate(self.messages) if message.role == "user"]
        while len(starts) > 1 and self.messages[starts[-1] - 1].role == "tool":
            starts.pop()  # the results were sent with the prompt, so the turn with their calls cannot go
        if len(starts) < 2:
            return self
        *turns, last = [
            sum(map(self._size, self.messages[start:end]))
            for start, end in zip([0, *starts[1:]], [*starts[1:], len(self.messages)], strict=True)
        ]
        left = context - self._least_tokens - last
        kept = 0
        for size in reversed(turns):
            left -= size
            if left < 0:
                break
            kept += 1
        dropped = len(turns) - kept
        messages = self.messages[starts[dropped] :] if dropped else self.messages
        return replace(self, messages=messages, turns_dropped=self.turns_dropped + dropped)

    def _size(self, message: Message) -> int:
        """Return how many tokens of the context a message takes at most."""
        return _tokens(message.texts) + self.tokens_per_image * len(message.images)


def _tokens(text: str) -> int:
    return int(estimate_tokens(text) * ESTIMATE_FACTOR)


class Completion(Struct, frozen=True, kw_only=True):
    """An engine's answer and the tokens that it took. `truncated`: the answer was cut at its limit.

    If the model asks for `tool_calls`, the text may be empty.
    """

    text: str
    usage: Usage
    truncated: bool = False
    tool_calls: tuple[ToolCall, ...] = ()


class Engine(Protocol):
    """Answers prompts."""

    def complete(self, call: EngineCall, *, timeout_s: float) -> Completion:
        """Answer one prompt within `timeout_s` seconds, without retries.

        Raises:
            EngineUnavailable: another engine may answer.
            PromptRefused: no engine will answer this prompt.
            TaskCancelled: the task was cancelled; the call was aborted, if its protocol allows that.
        """
        ...


Pricer = Callable[[EngineSpec, Usage], int | None]
"""(engine, usage) -> micro-USD, rounded up; None if the model's price is unknown."""
